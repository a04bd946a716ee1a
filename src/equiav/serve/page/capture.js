// The microphone and the camera:  → a File, as the browser records it.

import { at } from "./elements.js";
import { time } from "./words.js";

const MOST_S = 60;
const SOUNDS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const FILMS = ["video/webm;codecs=vp8,opus", "video/mp4", "video/webm"];

/** A sound from the microphone; null where it was cancelled. */
export const recordSound = () => capture("sound");

/** A picture or a video from the camera; null where it was cancelled. */
export const useCamera = () => capture("camera");

async function capture(kind) {
  const stream = await opened(kind);
  const dialog = at("capture");
  const ends = [() => stream.getTracks().forEach((track) => track.stop())];
  prepare(kind, stream, ends);
  dialog.showModal();
  try {
    return await taken(kind, stream, ends);
  } finally {
    for (const end of ends) end();
    dialog.close();
  }
}

async function opened(kind) {
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    throw new Error("This browser records only on pages that come by https or from this machine itself: choose a file instead.");
  }
  // as it sounds: what makes speech clear for calls would change it
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    return await navigator.mediaDevices.getUserMedia(kind === "sound" ? { audio } : { audio, video: true });
  } catch (error) {
    const device = kind === "sound" ? "microphone" : "camera or microphone";
    const why = { NotAllowedError: "may not be used: allow it in the browser’s settings of this page", NotFoundError: "was not found", NotReadableError: "is in use elsewhere" };
    throw new Error(`The ${device} ${why[error.name] ?? "cannot be used"}.`);
  }
}

function prepare(kind, stream, ends) {
  const [preview, level, camera] = [at("preview"), at("level"), kind === "camera"];
  at("h-capture").textContent = camera ? "Camera" : "Record a sound";
  at("capture-state").textContent = camera ? "Take a picture, or record a video." : "Ready.";
  at("capture-clock").textContent = time(0);
  at("capture-go").textContent = camera ? "Record a video" : "Start";
  at("capture-picture").hidden = preview.hidden = !camera;
  level.hidden = camera;
  if (camera) {
    preview.srcObject = stream;
    preview.play();
    ends.push(() => (preview.srcObject = null));
  } else {
    ends.push(meter(stream, level));
  }
}

/** What the user takes: a recording after Start and Stop, a picture, or nothing. */
function taken(kind, stream, ends) {
  const [go, picture, cancel, dialog] = ["capture-go", "capture-picture", "capture-cancel", "capture"].map(at);
  const { signal, abort } = listening(ends);
  return new Promise((resolve, reject) => {
    const begin = () => {
      const recorder = recording(kind, stream, ends, resolve, reject);
      picture.hidden = true;
      go.textContent = "Stop";
      go.addEventListener("click", () => recorder.stop(), { once: true, signal });
    };
    go.addEventListener("click", begin, { once: true, signal });
    picture.addEventListener("click", () => snapshot(at("preview")).then(resolve, reject), { signal });
    for (const [node, event] of [[cancel, "click"], [dialog, "cancel"]]) {
      node.addEventListener(event, () => (abort(), resolve(null)), { signal });
    }
  });
}

function listening(ends) {
  const controller = new AbortController();
  ends.push(() => controller.abort());
  return { signal: controller.signal, abort: () => controller.abort() };
}

function recording(kind, stream, ends, resolve, reject) {
  const type = (kind === "sound" ? SOUNDS : FILMS).find((one) => MediaRecorder.isTypeSupported(one));
  const recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("error", () => reject(new Error("The recording failed.")));
  recorder.addEventListener("stop", () => resolve(fileOf(parts, recorder.mimeType)));
  recorder.start();
  const begun = performance.now();
  at("capture-state").textContent = `Recording, at most ${MOST_S} s.`;
  const clock = setInterval(() => {
    const seconds = (performance.now() - begun) / 1000;
    at("capture-clock").textContent = time(seconds);
    if (seconds >= MOST_S && recorder.state === "recording") recorder.stop();
  }, 200);
  ends.push(() => clearInterval(clock));
  return recorder;
}

function fileOf(parts, type) {
  const kind = type.split(";")[0] || parts[0]?.type || "application/octet-stream";
  return new File(parts, `recording.${kind.split("/")[1]}`, { type: kind });
}

async function snapshot(video) {
  if (!video.videoWidth) throw new Error("The camera shows no picture yet.");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/png" })], "picture.png", { type: "image/png" });
}

/** Shows how loud it is; returns what ends it. */
function meter(stream, canvas) {
  const audio = new AudioContext();
  const analyser = audio.createAnalyser();
  audio.createMediaStreamSource(stream).connect(analyser);
  const wave = new Uint8Array(analyser.fftSize);
  const pen = canvas.getContext("2d");
  let running = true;
  const draw = () => {
    if (!running) return;
    analyser.getByteTimeDomainData(wave);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.beginPath();
    wave.forEach((value, i) => pen.lineTo((i / wave.length) * canvas.width, (value / 255) * canvas.height));
    pen.stroke();
    requestAnimationFrame(draw);
  };
  draw();
  return () => ((running = false), audio.close());
}
