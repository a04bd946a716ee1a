// Requests to the service that the page is from: JSON in and out, what goes wrong in words, patience where it asks for it.

const TRIES = 5;

/** An answer that is no success; `message` is for people. */
export class Problem extends Error {
  constructor(message, status = 0, id = "") {
    super(message);
    Object.assign(this, { status, id });
  }
}

/** Stopped by who asked. */
export const stopped = (error) => error.name === "AbortError";

/**
 * The JSON of an answer; null of an empty one.
 * body: FormData, or a plain object that goes as JSON. onwait: told the seconds before each new try.
 */
export async function ask(path, { method, body, headers = {}, signal, onwait = () => {} } = {}) {
  const form = body instanceof FormData;
  const sent = { method: method ?? (body ? "POST" : "GET"), signal, headers, credentials: "same-origin" };
  if (body) sent.body = form ? body : JSON.stringify(body);
  if (body && !form) sent.headers = { ...headers, "Content-Type": "application/json" };
  for (let tried = 1; ; tried++) {
    const answer = await reached(path, sent);
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const wait = Number(answer.headers.get("Retry-After"));
    if (![429, 503].includes(answer.status) || !(wait > 0) || tried === TRIES) throw await problemOf(answer);
    onwait(wait, answer.status);
    await pause(wait, signal);
  }
}

/** Why a file of the service cannot be had; null where it can. */
export async function refusalOf(path) {
  try {
    const answer = await reached(path, { headers: { Range: "bytes=0-0" }, credentials: "same-origin" });
    return answer.ok ? null : await problemOf(answer);
  } catch (error) {
    return error;
  }
}

async function reached(path, sent) {
  try {
    return await fetch(path, sent);
  } catch (error) {
    if (stopped(error)) throw error;
    throw new Problem("The service does not answer. Is it still running?");
  }
}

async function problemOf(answer) {
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("token-needed"));
  const told = await answer.json().catch(() => ({}));
  const faults = (told.errors ?? []).map((fault) => `${fault.at}: ${fault.problem}`);
  if (answer.status === 404 && told.detail === "Not Found") told.detail = "this service does not offer it: it may be older than the page";
  const words = [told.detail ?? answer.statusText, ...faults].join("; ");
  return new Problem(sentence(words || `The service answered with ${answer.status}`), answer.status, told.request_id ?? "");
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
