// The map: the clips' embeddings in two dimensions, coloured and shaped by label, with a table that says the same.

import { queryOf, to } from "./address.js";
import { ask } from "./api.js";
import { at, el, picture, problemBox } from "./elements.js";
import * as facts from "./facts.js";
import { Drawing, NONE, OTHERS, STYLES, swatch } from "./drawing.js";
import { pager } from "./pager.js";
import { counted, KINDS, nameOf, number, percent, span } from "./words.js";

const ROWS = 10;

const chosen = { run: "", of: "both" };

/** Fill the box with controls and the map. */
export async function showMap(box) {
  try {
    const runs = await facts.runs();
    if (!runs.some((run) => run.name === chosen.run)) chosen.run = runs[0].name;
    box.replaceChildren(controls(box, runs), el("div", { class: "map-place", id: "map-place" }), el("div", { id: "map-more" }));
    await fill();
  } catch (error) {
    box.replaceChildren(problemBox(error, () => showMap(box)));
  }
}

function controls(box, runs) {
  const select = (id, text, options, value, onchange) => {
    const field = el("select", { id, onchange: (event) => onchange(event.target.value) },
      ...options.map(([name, words]) => el("option", { value: name, text: words, selected: name === value })));
    return el("div", {}, el("label", { for: id, text }), field);
  };
  const set = (name) => (value) => ((chosen[name] = value), fill());
  return el(
    "div", { class: "row" },
    select("map-of", "Of", Object.entries(KINDS), chosen.of, set("of")),
    runs.length > 1 && select("map-run", "Run", runs.map((run) => [run.name, run.name]), chosen.run, set("run")),
  );
}

async function fill() {
  const place = at("map-place");
  place.setAttribute("aria-busy", "true");
  try {
    const path = `/v1/runs/${encodeURIComponent(chosen.run)}/map${queryOf({ of: chosen.of })}`;
    const [found, { clips }] = await Promise.all([ask(path), facts.library()]);
    show(place, found, clips);
  } catch (error) {
    place.replaceChildren(problemBox(error, fill));
    at("map-more").replaceChildren();
  } finally {
    place.removeAttribute("aria-busy");
  }
}

function show(place, { points, explained }, clips) {
  if (!points.length) return place.replaceChildren(el("p", { class: "hint", text: "No clip is embedded." }));
  const names = styled(points);
  const tip = el("div", { class: "tip", hidden: true });
  const canvas = el("canvas", { "aria-hidden": "true" });
  place.replaceChildren(canvas, tip);
  const drawing = new Drawing(canvas, points, (point) => names.get(point.label) ?? OTHERS);
  pointing(canvas, tip, drawing);
  const some = points.length < clips ? ` ${counted(points.length, "clip")} of ${number(clips)}, spread evenly.` : "";
  return at("map-more").replaceChildren(
    legend(points, names, drawing),
    el("p", { class: "hint", text: `The first two principal components, which hold ${percent(explained[0] + explained[1], 0)} of the variance.${some} A click on a point searches by its clip.` }),
    table(points),
  );
}

/** Label → its style; the most frequent ones have one of their own. */
function styled(points) {
  const counts = new Map();
  for (const { label } of points) counts.set(label, (counts.get(label) ?? 0) + 1);
  const labels = [...counts.keys()].filter((label) => label !== null).sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
  const own = labels.length > STYLES.length ? labels.slice(0, STYLES.length - 1) : labels;
  return new Map([...own.map((label, i) => [label, STYLES[i]]), [null, NONE]]);
}

/** Buttons that light up one label. */
function legend(points, names, drawing) {
  const kinds = [...names].filter(([label]) => points.some((point) => point.label === label)).map(([label, style]) => [label ?? "without a label", style]);
  if (points.some((point) => !names.has(point.label))) kinds.push(["other labels", OTHERS]);
  const buttons = kinds.map(([text, style]) => el("button", { type: "button", "aria-pressed": "false", onclick: (event) => {
    const on = event.currentTarget.getAttribute("aria-pressed") === "false";
    for (const button of buttons) button.setAttribute("aria-pressed", String(on && button === event.currentTarget));
    drawing.light(on ? style : null);
  } }, swatch(style), text));
  return el("div", { class: "row legend", role: "group", "aria-label": "Labels on the map" }, ...buttons);
}

/** A mouse shows a clip and searches by it; a finger shows it, with a link that does. */
function pointing(canvas, tip, drawing) {
  const place = (event) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const point = drawing.nearest(x, y);
    drawing.mark(point);
    canvas.classList.toggle("on", Boolean(point));
    tip.hidden = !point;
    if (!point) return null;
    if (tip.dataset.clip !== point.clip_id) tip.replaceChildren(...told(point));
    tip.dataset.clip = point.clip_id;
    const [px, py] = drawing.place(point);
    tip.style.transform = `translate(${Math.min(Math.max(px - 90, 0), Math.max(width - 190, 0))}px, ${py > 190 ? py - 190 : py + 14}px)`;
    return point;
  };
  const byMouse = (event) => event.pointerType === "mouse";
  canvas.addEventListener("pointermove", (event) => byMouse(event) && place(event));
  canvas.addEventListener("pointerleave", (event) => byMouse(event) && !tip.contains(event.relatedTarget) && (tip.hidden = true));
  canvas.addEventListener("pointerup", (event) => {
    const point = place(event);
    if (point && byMouse(event)) location.hash = to("search", { clip: point.clip_id });
  });
}

function told(point) {
  return [
    picture({ src: `/v1/clips/${encodeURIComponent(point.clip_id)}/thumbnail`, width: 128, height: 96 }), el("strong", { text: nameOf(point.source) }),
    el("span", { text: `${span(point)} · ${point.label ?? "without a label"}` }),
    el("a", { href: to("search", { clip: point.clip_id }), text: "Search by it" }),
  ];
}

function table(points) {
  const body = el("div", {});
  const show = (offset) => {
    const rows = points.slice(offset, offset + ROWS).map((point) => el("tr", {},
      el("td", {}, el("a", { href: to("search", { clip: point.clip_id }), text: `${nameOf(point.source)}, ${span(point)}` })),
      el("td", { text: point.label ?? "" }), el("td", { class: "figure", text: number(point.x, 2) }), el("td", { class: "figure", text: number(point.y, 2) })));
    body.replaceChildren(
      el("table", {}, el("caption", { class: "unseen", text: "Clips and their places on the map" }),
        el("thead", {}, el("tr", {}, ...["Clip", "Label", "x", "y"].map((text) => el("th", { scope: "col", text })))), el("tbody", {}, ...rows)),
      pager({ offset, shown: rows.length, total: points.length, k: ROWS, what: "points" }, show),
    );
  };
  const details = el("details", { ontoggle: () => body.childElementCount || show(0) }, el("summary", { text: "The map as a table" }), body);
  return details;
}
