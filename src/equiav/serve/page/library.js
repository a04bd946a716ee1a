// The view of the library: figures, labels, the map, its clips, and what was not taken in.

import { to } from "./address.js";
import { showClips } from "./browse.js";
import { at, el, problemBox } from "./elements.js";
import * as facts from "./facts.js";
import { showMap } from "./map.js";
import { showRejects } from "./rejects.js";
import { counted, long, number, percent, plain } from "./words.js";

const BARS = 40;
const STATUS = { ok: "sound and picture", silent: "silent", still: "a still picture", no_audio: "no sound", no_video: "no picture" };

/** Show the view as its address says; `anew`: it was not shown before. */
export function show(values, anew) {
  showClips(values);
  if (!anew) return;
  showFigures();
  showMap(at("map"));
  showRejects(at("rejects"));
}

async function showFigures() {
  const [box, bars] = [at("figures"), at("label-bars")];
  try {
    const library = await facts.library(true);
    box.replaceChildren(figures(library), details(library));
    bars.replaceChildren(...labels(library));
  } catch (error) {
    box.replaceChildren(problemBox(error, showFigures));
    bars.replaceChildren(el("p", { class: "hint", text: "Nothing to show." }));
  } finally {
    box.removeAttribute("aria-busy");
  }
}

function figures(library) {
  const tile = (name, value) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }));
  return el(
    "dl", { class: "tiles" },
    tile("clips", number(library.clips)),
    tile("files", number(library.files)),
    tile("in all", long(3600 * library.hours)),
    tile("shortest", long(library.shortest_s)),
    tile("median", long(library.median_s)),
    tile("longest", long(library.longest_s)),
  );
}

function details({ status, splits, unlabelled, copies, rejects }) {
  const list = (counts) => Object.entries(counts).map(([name, n]) => `${plain(name)} ${number(n)}`).join(", ");
  const refused = Object.values(rejects).reduce((all, n) => all + n, 0);
  const lines = [
    ["Splits", list(splits)],
    ["What they have", list(Object.fromEntries(Object.entries(status).map(([name, n]) => [STATUS[name] ?? name, n])))],
    ["Without a label", unlabelled ? counted(unlabelled, "clip") : "none"],
    ["Copies left out", copies ? number(copies) : "none"],
    ["Not taken in", refused ? list(rejects) : "nothing"],
  ];
  return el("dl", { class: "lines" }, ...lines.flatMap(([name, text]) => [el("dt", { text: name }), el("dd", { text: text || "none" })]));
}

/** Bars that are links: to the clips of that label. */
function labels({ labels: found, labels_in_all, clips }) {
  if (!found.length) return [el("p", { class: "hint", text: "No clip has a label." })];
  const most = found[0].clips;
  const rows = found.slice(0, BARS).map(({ label, clips: n }) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", n / most);
    return el("li", {}, el("a", { href: to("library", { labels: label }) },
      bar, el("span", { class: "bar-name", text: label }), el("span", { class: "bar-count", text: `${number(n)} · ${percent(n / clips)}` })));
  });
  const left = labels_in_all - rows.length;
  return [el("ul", {}, ...rows), left > 0 && el("p", { class: "hint", text: `and ${counted(left, "more label", "more labels")}` })].filter(Boolean);
}
