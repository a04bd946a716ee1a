// The clips of the library, page by page, those that the filters of the address let through.

import { go, queryOf, to } from "./address.js";
import { ask } from "./api.js";
import { card } from "./card.js";
import { at, el, problemBox, say } from "./elements.js";
import { stopPlaying } from "./player.js";
import { pager } from "./pager.js";
import { counted } from "./words.js";

const K = 12;
const FILTERS = ["labels", "sources", "split"];

let asked = null;

/** Show those that the address asks for. */
export async function showClips(values) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, values.getAll(name)]));
  const offset = Math.max(0, Math.trunc(Number(values.get("offset"))) || 0);
  const key = queryOf({ ...wanted, offset, k: K });
  if (!at("browse").childElementCount) at("browse").append(form(), el("div", { id: "browsed", class: "browsed" }));
  fill(wanted);
  if (key === asked) return;
  const first = asked === null;
  asked = key;
  stopPlaying();
  try {
    const page = await ask(`/v1/clips${key}`);
    if (key === asked) list(page, wanted, offset, first);
  } catch (error) {
    asked = null;
    at("browsed").replaceChildren(problemBox(error, () => showClips(values)));
  }
}

function list({ total, clips }, wanted, offset, first) {
  const move = (to_) => {
    go(to("library", { ...wanted, offset: to_ || "" }));
    at("h-browse").focus();
  };
  const pages = () => pager({ offset, shown: clips.length, total, k: K, what: "clips" }, move);
  at("browsed").replaceChildren(pages(), el("ol", { class: "cards small" }, ...clips.map((clip) => card(clip))), clips.length > 4 ? pages() : "");
  if (!first) say(counted(total, "clip"));
}

function form() {
  const field = (name, text, more) =>
    el("div", {}, el("label", { for: `in-${name}`, text }), el("input", { id: `in-${name}`, name, type: "text", maxlength: 500, autocomplete: "off", ...more }));
  const filters = el(
    "form", { class: "row filters", "aria-label": "Filters of the clips" },
    field("labels", "Label", { list: "label-names" }),
    field("sources", "Files like", { placeholder: "pets/*", spellcheck: "false" }),
    field("split", "Split", { list: "split-names" }),
    el("button", { type: "submit", text: "Filter" }),
    el("a", { class: "button", href: "#/library", text: "All clips" }),
  );
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    go(to("library", Object.fromEntries(new FormData(filters))));
  });
  return filters;
}

function fill(wanted) {
  for (const name of FILTERS) at(`in-${name}`).value = wanted[name][0] ?? "";
}
