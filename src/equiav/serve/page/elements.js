// Elements of the page from plain values: what is text stays text.

import { refusalOf } from "./api.js";

const TRIES = 3;
const SVG = "http://www.w3.org/2000/svg";

/** Element by id. */
export const at = (id) => document.getElementById(id);

/** An element: attributes (`on…` are listeners, `text` its text, null and false are left out), then children. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** A drawing from paths on a grid of 24. */
export function icon(...paths) {
  const drawing = filled(document.createElementNS(SVG, "svg"), { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" });
  for (const path of paths) drawing.append(filled(document.createElementNS(SVG, "path"), { d: path }));
  return drawing;
}

export const PLAY = "M8 5v14l11-7z";
export const PAUSE = "M7 5h4v14H7zM13 5h4v14h-4z";
export const SOUND = "M9 17V5l10-2v12a3 3 0 1 1-2-2.8V7L11 8.2V18a3 3 0 1 1-2-2.8z";
export const PICTURE = "M4 5h16v14H4zM6 17h12l-4-6-3 4-2-2z";

/** A picture of the service; a busy one is asked again, and `other` stands where it has none. */
export function picture(attributes, other = null) {
  const image = el("img", { alt: "", decoding: "async", ...attributes });
  let tries = 0;
  image.addEventListener("error", async () => {
    const refused = await refusalOf(attributes.src);
    if (tries++ < TRIES && (!refused || [429, 503].includes(refused.status))) setTimeout(() => (image.src = attributes.src), 1000 * tries);
    else if (other) image.replaceWith(other());
    else image.remove();
  });
  return image;
}

function filled(node, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Tell those who do not see the page. */
export function say(text) {
  at("live").textContent = text;
}

/** What went wrong, in words, where its result would be; with a button that tries again. */
export function problemBox(error, again = null) {
  at("alarm").textContent = error.message;
  const box = el("div", { class: "problem" }, el("p", { text: error.message }));
  if (error.id) box.append(el("p", { class: "hint", text: `Request ${error.id}` }));
  if (again) box.append(el("button", { type: "button", text: "Try again", onclick: again }));
  return box;
}
