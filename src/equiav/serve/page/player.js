// Plays the window of a file that a clip is: sound and picture from start_s to end_s, one clip at a time.

import { refusalOf } from "./api.js";
import { el } from "./elements.js";
import { nameOf, time } from "./words.js";

const PICTURES = /\.(avif|bmp|gif|heic|heif|jpe?g|jxl|png|tiff?|webp)$/i;
const NEAR_S = 0.05;

let current = null;

/** Is the clip a picture alone? */
export const isPicture = (clip) => PICTURES.test(clip.source);

/** Stop what plays. */
export const stopPlaying = () => current?.stop();

export class Player {
  /**
   * stage: where the picture is put. slider: from 0 to 1, moves with the time.
   * onchange: told whether it plays. onproblem: told why it cannot, in words.
   */
  constructor(clip, stage, slider, { onchange, onproblem }) {
    Object.assign(this, { clip, stage, slider, onchange, onproblem, media: null });
    slider.addEventListener("input", () => this.seek(Number(slider.value)));
  }

  /** Play, or pause. */
  toggle() {
    if (this.media?.tagName === "IMG") return this.stop();
    if (this.media && !this.media.paused) return this.media.pause();
    if (current !== this) {
      stopPlaying();
      current = this;
    }
    this.onproblem("");
    if (!this.media) this.open();
    if (this.media.tagName === "IMG") return undefined;
    if (this.media.currentTime >= this.end() - NEAR_S) this.media.currentTime = this.clip.start_s;
    return this.media.play().catch(() => {}); // the element's error says why
  }

  /** Back to the clip's own picture, and let the file go. */
  stop() {
    const { media } = this;
    this.media = null;
    if (current === this) current = null;
    if (!media) return;
    if (media.tagName === "VIDEO") media.pause();
    media.removeAttribute("src");
    media.load?.();
    media.remove();
    this.slider.disabled = true;
    this.slider.value = 0;
    this.slider.setAttribute("aria-valuetext", time(this.clip.start_s));
    this.onchange(false);
  }

  /** To a share of the clip. */
  seek(share) {
    const { start_s } = this.clip;
    if (this.media) this.media.currentTime = start_s + share * (this.end() - start_s);
  }

  open() {
    const { clip } = this;
    if (isPicture(clip)) {
      this.media = el("img", { src: clip.media, alt: `The picture ${nameOf(clip.source)}`, onerror: () => this.fail() });
      this.onchange(true);
    } else {
      const video = el("video", { src: clip.media, preload: "auto", playsinline: true, "aria-label": nameOf(clip.source) });
      video.currentTime = clip.start_s; // kept until the file's length is known
      video.addEventListener("error", () => this.fail());
      video.addEventListener("play", () => (this.onchange(true), this.follow()));
      video.addEventListener("pause", () => this.onchange(false));
      video.addEventListener("timeupdate", () => this.check());
      video.addEventListener("loadedmetadata", () => (this.slider.disabled = false));
      this.media = video;
    }
    this.stage.append(this.media);
  }

  /** Frame by frame while it plays: the times that the browser tells by itself are a quarter of a second apart. */
  follow() {
    if (!this.media || this.media.paused) return;
    this.check();
    requestAnimationFrame(() => this.follow());
  }

  check() {
    const { media, clip } = this;
    if (!media) return;
    const end = this.end();
    if (media.currentTime >= end && !media.paused) {
      media.pause();
      media.currentTime = end;
    }
    const share = (media.currentTime - clip.start_s) / (end - clip.start_s);
    this.slider.value = Math.min(Math.max(share, 0), 1);
    this.slider.setAttribute("aria-valuetext", `${time(media.currentTime)} of ${time(end)}`);
  }

  /** When to stop: the clip's end, or the file's where that is sooner. */
  end() {
    const whole = this.media?.duration;
    return Number.isFinite(whole) ? Math.min(this.clip.end_s, whole) : this.clip.end_s;
  }

  async fail() {
    if (!this.media) return;
    this.stop();
    const refused = await refusalOf(this.clip.media);
    const kind = /\.[^./]+$/.exec(this.clip.source)?.[0] ?? "such";
    this.onproblem(refused ? refused.message : `This browser cannot play ${kind} files of this kind; the file itself can be saved.`);
  }
}
