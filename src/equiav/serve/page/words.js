// Numbers and names as people read them.

const LANGUAGE = "en";

/** 75.25 → "1:15.3". */
export function time(seconds) {
  const tenths = Math.round(seconds * 10);
  const [minutes, rest] = [Math.floor(tenths / 600), tenths % 600];
  return `${minutes}:${(rest / 10).toFixed(1).padStart(4, "0")}`;
}

export const span = (clip) => `${time(clip.start_s)} – ${time(clip.end_s)}`;

/** The file's own name. */
export const nameOf = (source) => source.split("/").pop();

/** "1 clip", "1,600 clips". */
export const counted = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export const number = (value, digits = 0) =>
  value.toLocaleString(LANGUAGE, { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");

export const percent = (share, digits = 1) => `${number(100 * share, digits)} %`;

/** How a score stands among all pairs of the library; rounded down, so that it never says too much. */
export function closer(percentile) {
  if (percentile === null || percentile === undefined) return "";
  if (percentile >= 100) return "closer than all pairs";
  return `closer than ${number(Math.floor(percentile * 10) / 10, 1)} % of pairs`;
}

/** 90 s, 12 min, 3.4 h. */
export function long(seconds) {
  if (seconds < 120) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

/** Codes with underscores, as words. */
export const plain = (code) => code.replaceAll("_", " ");

export const KINDS = { audio: "sound", visual: "picture", both: "sound and picture" };
