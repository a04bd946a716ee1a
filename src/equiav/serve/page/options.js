// The options of a search:  the form's fields ↔ values of the address ↔ what the service is sent.

import { at, el, icon } from "./elements.js";

// Field → its name in the address and in a request
const FIELDS = {
  by: "by", run: "run", as: "as", k: "k", sources: "sources", split: "split",
  "min-score": "min_score", "start-s": "start_s", "end-s": "end_s",
};
const CHECKS = { group: "group_by", own: "own" };
const NUMBERS = ["k", "min_score", "start_s", "end_s"];
const K = "12";

let labels = [];

/** The form's values, as the address keeps them; what is as usual is left out. */
export function chosen() {
  const values = { labels };
  for (const [id, name] of Object.entries(FIELDS)) values[name] = at(id).value.trim();
  for (const [id, name] of Object.entries(CHECKS)) values[name] = at(id).checked;
  if (values.k === K) values.k = "";
  if (at("run").selectedIndex === 0) values.run = "";
  return values;
}

/** Fill the form. */
export function choose(values) {
  for (const [id, name] of Object.entries(FIELDS)) set(at(id), values.get(name) ?? (id === "k" ? K : ""));
  for (const [id, name] of Object.entries(CHECKS)) at(id).checked = values.has(name);
  show(values.getAll("labels"));
}

/** What the service is asked, of a file as fields of a form, else as JSON. */
export function sent(values) {
  const found = { k: Number(K) };
  for (const [name, value] of Object.entries(values)) {
    if (["own", "as"].includes(name) || value === "" || value === false || value.length === 0) continue;
    found[name] = name === "group_by" ? "source" : name === "sources" ? [value] : NUMBERS.includes(name) ? Number(value) : value;
  }
  return found;
}

/** Listen to the form. onchange: told of every change. */
export function listen(onchange) {
  const form = at("ask");
  form.addEventListener("submit", (event) => event.preventDefault());
  at("options").addEventListener("change", (event) => {
    if (event.target.id === "label") add();
    else if (event.target.id) onchange();
  });
  at("add-label").addEventListener("click", () => (add(), at("label").focus()));
  at("reset").addEventListener("click", () => (choose(new URLSearchParams()), onchange()));
  onchanged = onchange;
  // phones show the results first
  if (window.matchMedia("(max-width: 800px)").matches) at("options").open = false;
}

/** What may be chosen. */
export function offer({ runs, library }) {
  if (runs) {
    const select = at("run");
    const value = select.value || new URLSearchParams(location.hash.split("?")[1]).get("run");
    select.replaceChildren(...runs.map((run) => el("option", { value: run.name, text: run.name })));
    if (value) set(select, value);
    at("run-field").hidden = runs.length < 2;
  }
  if (library) {
    at("label-names").replaceChildren(...library.labels.map(({ label }) => el("option", { value: label })));
    at("split-names").replaceChildren(...Object.keys(library.splits).map((split) => el("option", { value: split })));
  }
}

let onchanged = () => {};

function add() {
  const label = at("label").value.trim();
  at("label").value = "";
  if (!label || labels.includes(label)) return;
  show([...labels, label]);
  onchanged();
}

function show(names) {
  labels = names;
  at("labels").replaceChildren(...names.map((name) =>
    el("li", {}, name, el("button", { type: "button", class: "drop-chip", "aria-label": `Without the label ${name}`, onclick: () => {
      show(labels.filter((other) => other !== name));
      at("label").focus();
      onchanged();
    } }, icon("M6 6l12 12M18 6L6 18")))));
}

function set(field, value) {
  if (field.tagName === "SELECT" && value && ![...field.options].some((option) => option.value === value)) {
    field.append(el("option", { value, text: value }));
  }
  if (field.tagName === "SELECT" && !value) field.selectedIndex = 0;
  else field.value = value;
}
