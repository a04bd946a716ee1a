// The view of the models: what each run is, and how good it was found to be.

import { ask } from "./api.js";
import { at, el, problemBox } from "./elements.js";
import * as facts from "./facts.js";
import { equivariance, retrieval } from "./report.js";
import { counted, number } from "./words.js";

/** Show all runs, at once, so that none is moved by the figures of another; `anew`: the view was not shown before. */
export async function show(values, anew) {
  if (!anew) return;
  const box = at("runs");
  box.setAttribute("aria-busy", "true");
  try {
    const runs = await facts.runs(true);
    const reports = await Promise.all(runs.map((run) => reportOf(run)));
    box.replaceChildren(...runs.map((run, i) => runBox(run, reports[i])));
  } catch (error) {
    box.replaceChildren(problemBox(error, () => show(values, true)));
  } finally {
    box.removeAttribute("aria-busy");
  }
}

/** What was measured, or the error that says why it is not known. */
const reportOf = (run) => ask(`/v1/runs/${encodeURIComponent(run.name)}/report`).catch((error) => error);

function runBox(run, report) {
  const measured = report instanceof Error ? [problemBox(report)] : [retrieval(report.retrieval), equivariance(report.equivariance)];
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
    ...measured,
  );
}
