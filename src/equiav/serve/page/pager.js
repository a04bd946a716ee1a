// Pages of something long:  previous, next, and which of how many are shown.

import { el } from "./elements.js";
import { number } from "./words.js";

/** onmove: told the offset to go to. */
export function pager({ offset, shown, total, k, what }, onmove) {
  const button = (text, to, off) =>
    el("button", { type: "button", text, disabled: off, "aria-label": `${text} ${what}`, onclick: () => onmove(to) });
  const words = total ? `${number(offset + 1)}–${number(offset + shown)} of ${number(total)}` : `No ${what}`;
  return el(
    "div", { class: "row pager" },
    button("Previous", Math.max(offset - k, 0), offset === 0),
    el("p", { text: words }),
    button("Next", offset + k, offset + shown >= total),
  );
}
