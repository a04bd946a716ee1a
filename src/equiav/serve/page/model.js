// The view of the models: what each run is, and how good it was found to be.

import { ask } from "./api.js";
import { at, el, problemBox } from "./elements.js";
import * as facts from "./facts.js";
import { equivariance, retrieval } from "./report.js";
import { counted, number } from "./words.js";

/** Show all runs; `anew`: it was not shown before. */
export async function show(values, anew) {
  if (!anew) return;
  const box = at("runs");
  try {
    const runs = await facts.runs(true);
    box.replaceChildren(...runs.map(runBox));
  } catch (error) {
    box.replaceChildren(problemBox(error, () => show(values, true)));
  }
}

function runBox(run) {
  const report = el("div", { class: "report", "aria-busy": "true" });
  fill(report, run);
  const lines = [
    ["Fingerprint", el("code", { text: run.fingerprint })],
    ["Width of its vectors", number(run.width)],
    ["Length of its clips", `${number(run.clip_s, run.clip_s % 1 ? 2 : 0)} s`],
    ["Clips embedded", `${number(run.clips - run.not_embedded)} of ${number(run.clips)}`],
  ];
  return el(
    "section", { class: "panel", "aria-label": `Run ${run.name}` },
    el("h2", { text: run.name }),
    el("dl", { class: "lines" }, ...lines.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)])),
    run.not_embedded > 0 && el("p", { class: "note" }, `${counted(run.not_embedded, "clip")} cannot be found yet: `, el("code", { text: "equiav embed --library L --run R" })),
    report,
  );
}

async function fill(box, run) {
  try {
    const report = await ask(`/v1/runs/${encodeURIComponent(run.name)}/report`);
    box.replaceChildren(retrieval(report.retrieval), equivariance(report.equivariance));
  } catch (error) {
    box.replaceChildren(problemBox(error, () => fill(box, run)));
  } finally {
    box.removeAttribute("aria-busy");
  }
}
