// What is searched by:  a file chosen, dropped, pasted or recorded, or a clip by its id → shown, and told of.

import { recordSound, useCamera } from "./capture.js";
import { card } from "./card.js";
import { at, el, icon, SOUND } from "./elements.js";

const KINDS = { audio: /\.(aac|aiff?|flac|m4a|mp3|oga|ogg|opus|wav|wma)$/i, video: /\.(3gp|avi|flv|m4v|mkv|mov|mp4|mpe?g|ts|webm|wmv)$/i, image: /\.(avif|bmp|gif|heic|heif|jpe?g|png|tiff?|webp)$/i };

let url = null;

/** onfile(file), onclip(id), onproblem(error). */
export function listen({ onfile, onclip, onproblem }) {
  const taken = (file) => file && onfile(file);
  at("file").addEventListener("change", (event) => {
    taken(event.target.files[0]);
    event.target.value = ""; // the same file can be chosen again
  });
  at("record-sound").addEventListener("click", () => recordSound().then(taken, onproblem));
  at("use-camera").addEventListener("click", () => useCamera().then(taken, onproblem));
  at("paste").addEventListener("click", () => pasted().then(taken, onproblem));
  const byId = () => at("clip-id").value.trim() && onclip(at("clip-id").value.trim());
  at("ask-clip").addEventListener("click", byId);
  at("clip-id").addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), byId()));
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file && !at("view-search").hidden) event.preventDefault(), taken(file);
  });
  dropping(taken);
}

/** The whole view takes files that are dropped. */
function dropping(taken) {
  const view = at("view-search");
  const lit = (on) => at("drop").classList.toggle("over", on);
  view.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    lit(true);
  });
  view.addEventListener("dragleave", (event) => view.contains(event.relatedTarget) || lit(false));
  view.addEventListener("drop", (event) => {
    lit(false);
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    taken(event.dataTransfer.files[0]);
  });
}

async function pasted() {
  if (!navigator.clipboard?.read) throw new Error("This browser lets a page paste by the keys alone: press Ctrl+V or ⌘V.");
  const items = await navigator.clipboard.read().catch(() => {
    throw new Error("The clipboard may not be read: press Ctrl+V or ⌘V, or choose a file.");
  });
  for (const item of items) {
    const type = item.types.find((one) => /^(image|audio|video)\//.test(one));
    if (type) return new File([await item.getType(type)], `pasted.${type.split("/")[1]}`, { type });
  }
  throw new Error("There is no picture in the clipboard.");
}

/** Keep the place of a clip that is still asked for, so that nothing moves when it comes. */
export function keepPlace() {
  if (!at("asked").hidden) return;
  at("asked").replaceChildren(el("div", { class: "card waiting" }));
  at("asked").hidden = false;
  makeRoom();
}

/** A narrow window has no room for both: then the clips found come sooner. */
function makeRoom() {
  at("ways").open = at("asked").hidden || !window.matchMedia("(max-width: 800px)").matches;
}

/** Show what is searched by: a file, a clip (ClipInfo), or nothing (null). */
export function showQuery({ file = null, clip = null }, onclear) {
  if (url) URL.revokeObjectURL(url);
  url = file && URL.createObjectURL(file);
  const box = at("asked");
  box.hidden = !file && !clip;
  at("as-field").hidden = Boolean(clip);
  at("own-field").hidden = Boolean(file);
  makeRoom();
  if (box.hidden) return box.replaceChildren();
  const clear = el("button", { type: "button", class: "plain", text: "Clear", "aria-label": "Clear the query", onclick: onclear });
  const name = file && el("span", { class: "hint", text: `${file.name} · ${size(file.size)}` });
  return box.replaceChildren(file ? shown(file) : card(clip, { tag: "div" }), el("p", { class: "row asked-foot" }, name, clear));
}

function shown(file) {
  const kind = kindOf(file);
  const silent = () => el("p", { class: "hint" }, icon(SOUND), "This browser cannot show it; the service is sent it as it is.");
  const media =
    kind === "image" ? el("img", { src: url, alt: `The query: ${file.name}` })
    : kind ? el(kind, { src: url, controls: true, preload: "metadata", playsinline: true, "aria-label": `The query: ${file.name}` })
    : silent();
  media.addEventListener("error", () => media.replaceWith(silent()), { once: true });
  return el("div", { class: "asked-file" }, media);
}

const kindOf = (file) =>
  Object.keys(KINDS).find((kind) => file.type.startsWith(`${kind}/`)) ?? Object.keys(KINDS).find((kind) => KINDS[kind].test(file.name));

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
