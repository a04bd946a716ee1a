// Clips to begin with, where nothing is asked yet: of each frequent label one.

import { queryOf } from "./address.js";
import { ask } from "./api.js";
import { card } from "./card.js";
import { at } from "./elements.js";
import * as facts from "./facts.js";

const MANY = 8;

let shown = false;

/** Show them, or not. */
export function showStarts(on) {
  at("starts").hidden = !on || !shown;
  if (on && !shown) fill(0);
}

async function fill(chance) {
  at("other-starts").onclick = () => fill(1);
  let clips;
  try {
    clips = await some(chance);
  } catch {
    return; // what is wrong is told where something is asked for
  }
  shown = clips.length > 0;
  at("start-clips").replaceChildren(...clips.map((clip) => card(clip)));
  at("starts").hidden = !shown || !at("asked").hidden;
}

/** chance 0: the first clips; 1: any. */
async function some(chance) {
  const { clips, labels } = await facts.library();
  const any = (n) => Math.floor(chance * Math.random() * Math.max(n, 1));
  const wanted = labels.slice(0, MANY).map(({ label, clips: n }) => ({ labels: label, offset: any(n), k: 1 }));
  const asked = wanted.length > 1 ? wanted : [{ offset: any(clips - MANY), k: MANY }];
  const pages = await Promise.all(asked.map((values) => ask(`/v1/clips${queryOf(values)}`)));
  return pages.flatMap((page) => page.clips);
}
