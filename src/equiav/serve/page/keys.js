// Keys of one letter: to the query, through the clips, more like one. They can be turned off.

import { at } from "./elements.js";

const OFF = "equiav-keys-off";
const STEPS = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 };

/** oncancel: told of Escape. */
export function listen(oncancel) {
  const on = at("keys-on");
  on.checked = localStorage.getItem(OFF) === null;
  on.addEventListener("change", () => (on.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  at("help-open").addEventListener("click", () => at("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") oncancel();
    else if (!writes(event.target) && (on.checked || event.key.length > 1) && pressed(event)) event.preventDefault();
  });
}

function pressed(event) {
  const here = event.target.closest?.(".card");
  if (event.key === "/") focus(at("view-search").hidden ? null : at("file"));
  else if (event.key === "?") at("help").showModal();
  else if (event.key === "m" && here) here.querySelector(".more")?.click();
  else if (event.key in STEPS) return step(STEPS[event.key], here, event.key.length > 1);
  else return false;
  return true;
}

/** To the play button of the next clip; arrows scroll the page until one has it. */
function step(by, here, arrow) {
  if (!here && arrow) return false;
  const cards = [...document.querySelectorAll("main section:not([hidden]) .cards .card")];
  const next = here ? cards[cards.indexOf(here) + by] : cards[0];
  focus(next?.querySelector(".play"));
  return Boolean(next);
}

function focus(node) {
  node?.focus();
  node?.closest(".card")?.scrollIntoView({ block: "nearest" });
}

const writes = (node) => node.matches?.("input:not([type=checkbox], [type=file]), select, textarea");
