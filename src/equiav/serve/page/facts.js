// What the service says of its library and its runs, asked once until it is to be asked anew.

import { ask } from "./api.js";

const kept = new Map();

export const library = (anew = false) => once("/v1/library", anew);

export const runs = async (anew = false) => (await once("/v1/runs", anew)).runs;

/** Another one may have signed in. */
export const forget = () => kept.clear();

function once(path, anew) {
  if (anew || !kept.has(path)) {
    const asked = ask(path);
    kept.set(path, asked);
    asked.catch(() => kept.delete(path));
  }
  return kept.get(path);
}
