// Points on a canvas, each label with a colour and a shape of its own.

import { el } from "./elements.js";

const SHAPES = {
  circle: (pen, r) => pen.arc(0, 0, r, 0, 2 * Math.PI),
  square: (pen, r) => pen.rect(-0.9 * r, -0.9 * r, 1.8 * r, 1.8 * r),
  triangle: (pen, r) => corners(pen, [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]], r),
  diamond: (pen, r) => corners(pen, [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]], r),
  wedge: (pen, r) => corners(pen, [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]], r),
  cross: (pen, r) => corners(pen, [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]], r),
};
const EDGE = 16;
const REACH = 14;

/** Colours are of the style sheet, for light and dark. */
export const STYLES = Array.from({ length: 12 }, (_, i) => ({ colour: `--label-${i % 6}`, shape: Object.keys(SHAPES)[(i + Math.floor(i / 6)) % 6] }));
export const OTHERS = { colour: "--label-other", shape: "circle" };
export const NONE = { colour: "--label-other", shape: "cross" };

export class Drawing {
  /** styleOf: the style of a point {x, y}. */
  constructor(canvas, points, styleOf) {
    Object.assign(this, { canvas, points, styleOf, lit: null, marked: null });
    const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
    this.bounds = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }

  /** Light up one style alone; null: all. */
  light(style) {
    this.lit = style;
    this.draw();
  }

  mark(point) {
    if (point === this.marked) return;
    this.marked = point;
    this.draw();
  }

  /** Where a point is, in pixels of the page. */
  place({ x, y }) {
    const [left, right, low, high] = this.bounds;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [EDGE + ((x - left) / (right - left || 1)) * (w - 2 * EDGE), h - EDGE - ((y - low) / (high - low || 1)) * (h - 2 * EDGE)];
  }

  /** The point near a place; null where there is none. */
  nearest(x, y) {
    let [best, least] = [null, REACH];
    for (const point of this.points) {
      if (this.lit && this.styleOf(point) !== this.lit) continue;
      const [px, py] = this.place(point);
      const away = Math.hypot(px - x, py - y);
      if (away < least) [best, least] = [point, away];
    }
    return best;
  }

  draw() {
    const { canvas } = this;
    const dense = window.devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [w * dense, h * dense];
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const colours = getComputedStyle(canvas);
    const radius = Math.min(Math.max(0.2 * Math.sqrt((w * h) / this.points.length), 2), 5);
    for (const point of this.points) {
      const style = this.styleOf(point);
      pen.globalAlpha = this.lit && style !== this.lit ? 0.12 : 0.85;
      shape(pen, this.place(point), style, radius, colours);
    }
    pen.globalAlpha = 1;
    if (!this.marked) return;
    shape(pen, this.place(this.marked), this.styleOf(this.marked), 1.8 * radius + 2, colours);
    pen.strokeStyle = colours.color;
    pen.lineWidth = 2;
    pen.stroke();
  }
}

function shape(pen, [x, y], style, radius, colours) {
  pen.save();
  pen.translate(x, y);
  pen.beginPath();
  SHAPES[style.shape](pen, radius);
  pen.restore();
  pen.fillStyle = colours.getPropertyValue(style.colour);
  pen.fill();
}

function corners(pen, places, r) {
  for (const [x, y] of places) pen.lineTo(x * r, y * r);
  pen.closePath();
}

/** A sign of a style, for a legend. */
export function swatch(style) {
  const canvas = el("canvas", { width: 28, height: 28, class: "swatch", "aria-hidden": "true" });
  const draw = () => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, 28, 28);
    shape(pen, [14, 14], style, 9, getComputedStyle(canvas));
  };
  requestAnimationFrame(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return canvas;
}
