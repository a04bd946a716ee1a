// A clip as people see it: picture, sound as a spectrogram, times, labels, how near it is; it plays where it stands.

import { to } from "./address.js";
import { el, icon, PAUSE, picture, PICTURE, PLAY, SOUND } from "./elements.js";
import { isPicture, Player } from "./player.js";
import { closer, counted, nameOf, number, span, time } from "./words.js";

/**
 * An <li> of a clip (FoundClip or ClipInfo).
 * rank: its place in a ranking. more: the address of the search by it. tag: another element than <li>.
 */
export function card(clip, { rank = null, more = to("search", { clip: clip.clip_id }), tag = "li" } = {}) {
  const name = nameOf(clip.source);
  const stage = el("div", { class: "stage" }, still(clip));
  const play = el("button", { type: "button", class: "play" });
  const slider = el("input", {
    type: "range", min: 0, max: 1, step: "any", value: 0, disabled: true,
    "aria-label": `Place in ${name}`, "aria-valuetext": time(clip.start_s),
  });
  const note = el("p", { class: "note", role: "status" });
  const verb = isPicture(clip) ? ["Show", "Hide"] : ["Play", "Pause"];
  const player = new Player(clip, stage, slider, {
    onchange(playing) {
      play.replaceChildren(icon(playing ? PAUSE : isPicture(clip) ? PICTURE : PLAY));
      play.setAttribute("aria-label", `${verb[playing ? 1 : 0]} ${name}, ${span(clip)}`);
      play.classList.toggle("playing", playing);
    },
    onproblem(words) {
      note.replaceChildren(...(words ? [words, " ", saved(clip)] : []));
    },
  });
  player.onchange(false);
  play.addEventListener("click", () => player.toggle());
  stage.addEventListener("click", (event) => event.composedPath().includes(play) || player.toggle());
  stage.append(play);
  return el(
    tag, { class: "card", "data-clip": clip.clip_id },
    stage, spectrogram(clip, slider), about(clip, name, rank), note,
    el("p", { class: "row acts" },
      el("a", { class: "more", href: more, "aria-label": `More like this: ${name}, ${span(clip)}`, text: "More like this" }),
      saved(clip)),
  );
}

const saved = (clip) =>
  el("a", { href: clip.media, download: nameOf(clip.source), "aria-label": `Save the file ${nameOf(clip.source)}`, text: "Save" });

/** The picture that a clip is embedded by; a sign where it has none. */
export function still(clip) {
  const sound = clip.frame_s === null || clip.frame_times_s?.length === 0;
  const sign = () => el("span", { class: "sign" }, icon(sound ? SOUND : PICTURE));
  if (sound) return sign();
  return picture({ class: "still", src: clip.thumbnail, width: 128, height: 96, loading: "lazy" }, sign);
}

function spectrogram(clip, slider) {
  const strip = el("div", { class: "strip" });
  if (isPicture(clip)) return strip;
  if (clip.spectrogram) strip.append(picture({ src: clip.spectrogram, loading: "lazy" }));
  strip.append(slider);
  return strip;
}

function about(clip, name, rank) {
  const scored = clip.score !== undefined;
  return el(
    "div", { class: "about" },
    el("h3", { title: clip.source },
      rank && el("span", { class: "rank", text: `${rank}.` }), rank && " ", name),
    el("p", { class: "hint" }, isPicture(clip) ? "picture" : span(clip), clip.split && ` · ${clip.split}`),
    scored && el("p", { class: "score" },
      el("strong", { text: number(clip.score, 3) }), " ", el("span", { text: closer(clip.percentile) })),
    el("ul", { class: "chips", "aria-label": counted(clip.labels.length, "label") },
      ...clip.labels.map((label) => el("li", { text: label }))),
  );
}
