// The view of search:  the address and what was given → a question to the service → clips, the nearest first.

import { go, queryOf, to } from "./address.js";
import { ask, stopped } from "./api.js";
import { card } from "./card.js";
import { at, problemBox, say } from "./elements.js";
import * as facts from "./facts.js";
import * as options from "./options.js";
import { stopPlaying } from "./player.js";
import * as query from "./query.js";
import { showStarts } from "./starts.js";
import { counted, KINDS, number } from "./words.js";

const CLIPS_OF_A_FILE = 200;
const FILES = { audio: "sound", visual: "picture", both: "video" };

let asked = null; // {file} or {clip: id}
let answered = ""; // the address, and the file, of what is shown
let found = 0;
let running = null; // AbortController

export function start() {
  options.listen(() => move(asked));
  query.listen({
    onfile: (file) => move({ file }),
    onclip: (clip) => move({ clip }),
    onproblem: (error) => at("search-problem").replaceChildren(problemBox(error)),
  });
  at("cancel").addEventListener("click", cancel);
  at("more").addEventListener("click", () => run(true));
}

/** Show the view as its address says. */
export function show(values) {
  options.choose(values);
  offers();
  if (values.has("clip")) asked = { clip: values.get("clip") };
  else if (asked?.clip) asked = null;
  const key = location.hash;
  if (asked && key === answered) return; // it is there still
  answered = key;
  run();
}

/** Stop the question that is asked. */
export function cancel() {
  running?.abort();
}

/** Ask for something else, or otherwise. */
function move(next) {
  asked = next;
  const address = to("search", { clip: next?.clip, ...options.chosen() });
  if (address === (location.hash || "#/search")) run();
  else go(address);
}

async function offers() {
  const [runs, library] = await Promise.allSettled([facts.runs(), facts.library()]);
  options.offer({ runs: runs.value, library: library.value });
}

async function run(more = false) {
  cancel();
  if (!more) stopPlaying();
  at("search-problem").replaceChildren();
  showStarts(!asked);
  if (!asked) return empty();
  const controller = (running = new AbortController());
  const ticking = progress(controller);
  try {
    if (!more) await showQuery(controller.signal);
    const began = performance.now();
    const { ranking, k } = await answer(controller.signal, more ? found : 0, ticking.note);
    if (running !== controller) return undefined;
    list(ranking, k, more, (performance.now() - began) / 1000);
  } catch (error) {
    if (running !== controller) return undefined;
    fail(error, more);
  } finally {
    ticking.end();
    if (running === controller) running = null;
  }
  return undefined;
}

function empty() {
  found = 0;
  query.showQuery({});
  at("hits").replaceChildren();
  at("more").hidden = true;
  at("status").textContent = "";
}

const clear = () => {
  move(null);
  at("file").focus();
};

let shownQuery = null;

async function showQuery(signal) {
  if (asked.file) {
    if (shownQuery !== asked.file) query.showQuery({ file: asked.file }, clear);
    shownQuery = asked.file;
    return;
  }
  if (shownQuery !== asked.clip || at("asked").hidden) {
    query.keepPlace();
    const clip = await ask(`/v1/clips/${encodeURIComponent(asked.clip)}`, { signal });
    query.showQuery({ clip }, clear);
  }
  shownQuery = asked.clip;
}

/** The service's ranking, from an offset on. */
async function answer(signal, offset, onwait) {
  const values = options.chosen();
  const body = { ...options.sent(values), offset };
  if (!asked.file) {
    body.clip = asked.clip;
    if (values.own) body.exclude = await idsOfFile(asked.clip, signal);
    return { ranking: await ask("/v1/search", { body, signal, onwait }), k: body.k };
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) for (const one of [value].flat()) form.append(name, one);
  if (values.as) form.append("as", values.as);
  form.append("file", asked.file, "query");
  return { ranking: await ask("/v1/search", { body: form, signal, onwait }), k: body.k };
}

/** Ids of the clips of the file that a clip is from. */
async function idsOfFile(clip, signal) {
  const { source } = await ask(`/v1/clips/${encodeURIComponent(clip)}`, { signal });
  const pattern = source.replace(/[[*?]/g, "[$&]"); // it is a name, no pattern
  const ids = [];
  for (let offset = 0, total = 1; offset < Math.min(total, 1000); offset += CLIPS_OF_A_FILE) {
    const page = await ask(`/v1/clips${queryOf({ sources: pattern, offset, k: CLIPS_OF_A_FILE })}`, { signal });
    ids.push(...page.clips.filter((one) => one.source === source).map((one) => one.clip_id));
    total = page.total;
  }
  return ids.slice(0, 1000);
}

function list({ hits, kind, by, run: name }, k, more, seconds) {
  if (!more) found = 0;
  const values = options.chosen();
  const cards = hits.map((hit, i) =>
    card(hit, { rank: found + i + 1, more: to("search", { clip: hit.clip_id, ...values, as: "" }) }));
  if (more) at("hits").append(...cards);
  else at("hits").replaceChildren(...cards);
  found += hits.length;
  at("more").hidden = hits.length < k;
  at("status").textContent = found ? told(kind, by, name, seconds) : "No clip matches these options.";
  if (more) cards[0]?.querySelector(".play").focus();
}

function told(kind, by, name, seconds) {
  const what = asked.file ? FILES[kind] : "clip";
  const how = by === "both" ? "nearest in sound and picture to" : `whose ${KINDS[by]} is nearest to`;
  const run_ = at("run").options.length > 1 ? ` · run ${name}` : "";
  return `${counted(found, "clip")} ${how} this ${what}${run_} · ${number(seconds, 1)} s`;
}

function fail(error, more) {
  if (at("asked").querySelector(".waiting")) query.showQuery({});
  if (stopped(error)) {
    answered = "";
    at("status").textContent = "Cancelled.";
    return;
  }
  answered = "";
  if (!more) {
    found = 0;
    at("hits").replaceChildren();
    at("more").hidden = true;
  }
  at("status").textContent = "";
  at("search-problem").replaceChildren(problemBox(error, error.status === 422 ? null : () => run(more)));
}

/** What is shown while a question is asked; a short one shows nothing. */
function progress(controller) {
  const [bar, button, status, hits] = ["progress", "cancel", "status", "hits"].map(at);
  hits.setAttribute("aria-busy", "true");
  const timer = setTimeout(() => {
    bar.hidden = button.hidden = false;
    status.textContent = asked?.file ? "The file is sent and compared …" : "Searching …";
  }, 150);
  return {
    note(seconds, code) {
      const why = code === 429 ? "The service is busy" : "The service is not ready";
      status.textContent = `${why}; asked again in ${number(seconds)} s …`;
      say(status.textContent);
    },
    end() {
      clearTimeout(timer);
      if (running && running !== controller) return;
      bar.hidden = button.hidden = true;
      hits.removeAttribute("aria-busy");
    },
  };
}
