// What was measured of a model, as tables with intervals; where it was not measured, the command that does.

import { el } from "./elements.js";
import { KINDS, number, percent, plain } from "./words.js";

const COMMANDS = {
  retrieval: "equiav evaluate retrieval --library L --run R --split test --out R/retrieval.json",
  equivariance: "equiav diagnose --library L --run R",
};
const WAYS = { audio_to_visual: "sound → picture", visual_to_audio: "picture → sound" };
const NAMES = {
  recall_at_1: "R@1: the clip’s own other half is first",
  recall_at_5: "R@5: … among the first five",
  recall_at_10: "R@10: … among the first ten",
  median_rank: "median rank of it",
  mean_rank: "mean rank of it",
  mean_reciprocal_rank: "mean reciprocal rank",
  ndcg_at_10: "nDCG@10",
  "class_level.precision_at_1": "the nearest has the same label",
  "class_level.precision_at_10": "same label among the first ten",
  "class_level.mean_average_precision": "mAP of the label",
  "class_level_others.precision_at_1": "the nearest other clip has the same label",
  "class_level_others.precision_at_10": "same label among the first ten others",
  "class_level_others.mean_average_precision": "mAP of the label, without itself",
};
const QUESTIONS = { alone: "one transform alone", "in context": "one transform among others", "all together": "all transforms at once" };

/** Whether a sound finds its picture, and a picture its sound. */
export function retrieval(report) {
  const box = part("Retrieval", report, "retrieval");
  if (!report?.figures.length) return box;
  const names = [...new Set(report.figures.map((figure) => figure.name))];
  const found = (name, way) => report.figures.find((figure) => figure.name === name && figure.way === way);
  const rows = names.map((name) => {
    const chance = found(name, "audio_to_visual")?.chance;
    return el("tr", {},
      el("th", { scope: "row", text: NAMES[name] ?? plain(name.replaceAll(".", ": ")) }),
      ...Object.entries(WAYS).map(([way, words]) => cell(found(name, way), words, isShare(name))),
      el("td", { class: "figure", "data-name": "chance", text: chance === null || chance === undefined ? "" : shown(chance, isShare(name)) }));
  });
  box.append(table("Figures of retrieval", ["Figure", ...Object.values(WAYS), "Chance"], rows));
  return box;
}

/** Whether the predictor knows what a transformation does. */
export function equivariance(report) {
  const box = part("Equivariance", report, "equivariance");
  if (!report) return box;
  if (report.state === "damaged") return box;
  box.append(el("p", { class: "hint", text:
    "Cosine of the displacement that the predictor expects and the true one: 1 is right, 0 is no prediction." }));
  for (const modality of new Set(report.transforms.map((row) => row.modality))) {
    const rows = report.transforms.filter((row) => row.modality === modality).map((row) => el("tr", {},
      el("th", { scope: "row", text: row.transform === row.question ? "all of them" : plain(row.transform) }),
      el("td", { "data-name": "asked of", text: QUESTIONS[row.question] ?? row.question }),
      cell(row.cosine, "cosine", false),
      el("td", { "data-name": "beats all yardsticks", text: { true: "✓ yes", false: "– no" }[row.beats_all] ?? "" })));
    box.append(el("h4", { text: `Of ${KINDS[modality] ?? modality}s` }),
      table(`Equivariance of ${KINDS[modality] ?? modality}s`, ["Transform", "Asked of", "Cosine", "Beats all yardsticks"], rows));
  }
  const alarms = Object.entries(report.alarms);
  box.append(el("h4", { text: "Gates" }), alarms.length
    ? el("ul", { class: "alarms" }, ...alarms.map(([name, text]) => el("li", {}, el("strong", { text: plain(name) }), ` ${text}`)))
    : el("p", { text: "✓ No measure is out of bounds." }));
  return box;
}

/** Its head: of what it was measured, whether it may be believed, and how to measure it. */
function part(title, report, name) {
  const command = () => el("p", {}, el("code", { text: COMMANDS[name] }));
  const box = el("section", { class: "measured", "aria-label": title }, el("h3", { text: title }));
  if (!report) box.append(el("p", { class: "hint", text: "Not measured yet. This does it:" }), command());
  else if (report.state === "damaged") box.append(el("p", { class: "note wrong", text: "The file with the figures cannot be read. This makes it anew:" }), command());
  else {
    if (report.state === "stale") box.append(el("p", { class: "note wrong", text: "These figures are of other weights than those that are served. This measures these:" }), command());
    const about = [report.clips !== null && `${number(report.clips)} clips`, report.split && `split ${report.split}`, report.protocol];
    box.append(el("p", { class: "hint", text: `${about.filter(Boolean).join(" · ")} · in brackets 95 % intervals` }));
    for (const warning of report.warnings) box.append(el("p", { class: "note wrong", text: warning }));
  }
  return box;
}

const isShare = (name) => !/(^|\.)(median|mean)_rank$/.test(name);

const shown = (value, share) => (share ? percent(value) : number(value, Math.abs(value) < 1 ? 2 : 1));

/** A figure with its interval, drawn where it lies between 0, of a cosine −1, and 1. */
function cell(figure, name, share) {
  const unit = share || name === "cosine";
  if (!figure) return el("td", { "data-name": name, text: "–" });
  const { value, low, high } = figure;
  const chance = name === "cosine" ? 0 : figure.chance;
  const known = low !== null && low !== undefined;
  const text = name === "cosine" ? number(value, 2) : shown(value, share);
  const ends = known && (name === "cosine" ? `[${number(low, 2)}, ${number(high, 2)}]` : share ? `[${number(100 * low, 1)}, ${number(100 * high, 1)}]` : `[${number(low, 1)}, ${number(high, 1)}]`);
  const bar = unit && known && el("span", { class: "interval", "aria-hidden": "true" }, el("span", { class: "ends" }), el("span", { class: "point" }), chance !== null && el("span", { class: "chance" }));
  if (bar) placed(bar, { value, low, high, chance: chance ?? 0 }, name === "cosine" ? -1 : 0);
  return el("td", { "data-name": name }, el("span", { class: "value", text }), " ", ends && el("span", { class: "hint", text: ends }), bar);
}

/** Along a line from `least` to 1. */
function placed(bar, ends, least) {
  for (const [name, value] of Object.entries(ends)) {
    const share = (value - least) / (1 - least);
    bar.style.setProperty(`--${name}`, Math.min(Math.max(share, 0), 1));
  }
}

function table(caption, heads, rows) {
  return el("table", { class: "stacked figures" },
    el("caption", { class: "unseen", text: caption }),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows));
}
