// What was not taken in, and why, page by page.

import { queryOf } from "./address.js";
import { ask } from "./api.js";
import { el, problemBox, say } from "./elements.js";
import { pager } from "./pager.js";
import { counted, number, plain, time } from "./words.js";

const K = 20;

/** Fill the box with those of a reason, or all. */
export async function showRejects(box, reason = "", offset = 0) {
  try {
    const page = await ask(`/v1/rejects${queryOf({ reason, offset, k: K })}`);
    box.replaceChildren(...content(box, page, reason, offset));
  } catch (error) {
    box.replaceChildren(problemBox(error, () => showRejects(box, reason, offset)));
  }
}

function content(box, { total, reasons, rejects }, reason, offset) {
  const all = Object.values(reasons).reduce((sum, n) => sum + n, 0);
  if (!all) return [el("p", { class: "hint", text: "Everything could be read." })];
  const choice = (value, text, n) =>
    el("button", {
      type: "button", "aria-pressed": String(value === reason), text: `${text} ${number(n)}`,
      onclick: async () => {
        await showRejects(box, value);
        say(`${counted(n, "entry", "entries")}: ${text}`);
        box.querySelector("[aria-pressed=true]")?.focus();
      },
    });
  const reasonButtons = Object.entries(reasons).map(([name, n]) => choice(name, plain(name), n));
  return [
    el("div", { class: "row", role: "group", "aria-label": "By reason" }, choice("", "all", all), ...reasonButtons),
    table(rejects),
    pager({ offset, shown: rejects.length, total, k: K, what: "rejects" }, (to) => showRejects(box, reason, to)),
  ];
}

function table(rejects) {
  const where = ({ start_s, end_s }) => (start_s === null || end_s === null || start_s === undefined ? "" : ` ${time(start_s)} – ${time(end_s)}`);
  const rows = rejects.map((one) => el("tr", {},
    el("td", { "data-name": "file", text: one.source + where(one) }), el("td", { "data-name": "reason", text: plain(one.reason) }),
    el("td", { "data-name": "while", text: plain(one.stage) }), el("td", { "data-name": "what was found", text: one.detail })));
  return el(
    "table", { class: "stacked" },
    el("caption", { class: "unseen", text: "Files and windows that gave no clip" }),
    el("thead", {}, el("tr", {}, ...["File", "Reason", "While", "What was found"].map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows),
  );
}
