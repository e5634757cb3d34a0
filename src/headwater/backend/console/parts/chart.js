/** One line over a span of time, with its newest value; drawn as SVG, styled by the page's CSS. */

import { clock, el } from "../dom.js";
import { marks, roundedUp, unbroken } from "./axis.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 72;
// Pixels that a mark of the time axis needs.
const MARK = 54;

export class Chart {
  #points = []; // {at: ms, value}, oldest first
  #span = 300_000;
  #shape;
  #line = path("line");
  #area = path("area");
  #value = el("span", { class: "value" }, "–");
  #detail = el("span", { class: "detail", title: "Lowest to highest in the chart" });
  #top = el("span", { class: "tick highest" });
  #axis = el("div", { class: "axis", "aria-hidden": "true" });
  #dot = el("span", { class: "newest", hidden: true });
  #cursor = el("span", { class: "cursor", hidden: true });
  #picture;
  #to = Date.now();

  /** `shape`: {title, unit, read(report), most, digits}; `most` fixes the top of the scale. */
  constructor(shape) {
    this.#shape = shape;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(this.#area, this.#line);
    this.#picture = el("div", { class: "plot", role: "img" }, svg, this.#dot, this.#cursor, this.#top);
    new ResizeObserver(() => this.draw()).observe(this.#picture);
    this.#picture.addEventListener("pointermove", (event) => this.#point(event));
    this.#picture.addEventListener("pointerleave", () => {
      this.#cursor.hidden = true;
      this.draw();
    });
    this.element = el(
      "figure",
      { class: "chart", "data-kind": shape.kind },
      el("figcaption", {}, el("span", { class: "title" }, shape.title), this.#value, this.#detail),
      this.#picture,
      this.#axis,
    );
  }

  /** Show these reports, of the last `span` milliseconds. */
  set(reports, span) {
    this.#span = span;
    this.#points = reports.map((report) => this.#read(report));
    this.draw();
  }

  add(report) {
    this.#points.push(this.#read(report));
    this.draw();
  }

  /** Draw up to now: time goes on also while nothing is reported. */
  draw() {
    if (!this.#cursor.hidden) return; // one who reads a value is not disturbed
    this.#to = Math.max(Date.now(), this.#points.at(-1)?.at ?? 0);
    const from = this.#to - this.#span;
    const older = this.#points.findIndex(({ at }) => at >= from);
    this.#points.splice(0, older < 0 ? this.#points.length : Math.max(0, older - 1));
    const points = this.#points.filter(({ at }) => at >= from);
    const last = points.at(-1);
    this.#dot.hidden = !last;
    this.#drawAxis(from);
    this.#drawLines(points);
    if (last) this.#mark(this.#dot, last);
    this.#tell(points, last);
  }

  #drawLines(points) {
    const runs = unbroken(points).map((run) => thinned(run).map((point) => this.#place(point)));
    this.#line.setAttribute("d", runs.map((run) => `M${run.join("L")}${run.length > 1 ? "" : "h0.1"}`).join(""));
    this.#area.setAttribute(
      "d",
      runs.map((run) => `M${run[0][0]},${HEIGHT}L${run.join("L")}V${HEIGHT}Z`).join(""),
    );
  }

  #drawAxis(from) {
    const width = this.#picture.clientWidth || WIDTH;
    const count = Math.max(1, Math.floor(width / MARK));
    const edge = MARK / 3 / width;
    this.#axis.replaceChildren(
      ...marks(from, this.#to, count)
        .map(({ at, words }) => ({ place: (at - from) / this.#span, words }))
        // Words at the very edge would be cut.
        .filter(({ place }) => place > edge && place < 1 - edge)
        .map(({ place, words }) => {
          const mark = el("span", { class: "mark" }, words);
          mark.style.left = `${place * 100}%`;
          return mark;
        }),
    );
  }

  #tell(points, last) {
    const { title } = this.#shape;
    this.#top.textContent = last ? this.#words(this.#most, true) : "";
    this.#value.textContent = last ? this.#words(last.value) : "–";
    if (!last) {
      this.#detail.textContent = "";
      return this.#picture.setAttribute("aria-label", `${title}: no data in this time`);
    }
    const values = points.map(({ value }) => value);
    const range = [Math.min(...values), Math.max(...values)].map((value) => this.#words(value));
    this.#detail.textContent = range.map((words) => words.split(" ")[0]).join(" to ");
    this.#picture.setAttribute(
      "aria-label",
      `${title}: ${this.#words(last.value)} at ${clock(last.at)}, between ${range.join(" and ")}`,
    );
  }

  #read(report) {
    return { at: Date.parse(report.at), value: this.#shape.read(report) };
  }

  get #most() {
    if (this.#shape.most) return this.#shape.most;
    return roundedUp(this.#points.reduce((most, { value }) => Math.max(most, value), 0) * 1.2);
  }

  /** Show the report that is nearest to the pointer. */
  #point(event) {
    if (this.#points.length === 0) return;
    const { left, width } = this.#picture.getBoundingClientRect();
    const wanted = ((event.clientX - left) / width) * WIDTH;
    const distance = (point) => Math.abs(this.#place(point)[0] - wanted);
    const nearest = this.#points.reduce((one, other) =>
      distance(other) < distance(one) ? other : one,
    );
    this.#cursor.hidden = false;
    this.#mark(this.#dot, nearest);
    this.#cursor.style.left = this.#dot.style.left;
    this.#value.textContent = this.#words(nearest.value);
    this.#detail.textContent = clock(nearest.at);
  }

  #mark(mark, point) {
    const [x, y] = this.#place(point);
    mark.style.left = `${(x / WIDTH) * 100}%`;
    mark.style.top = `${(y / HEIGHT) * 100}%`;
  }

  /** Where a point is in the picture. */
  #place({ at, value }) {
    // Two units of room, so that a line at the very top or bottom is not cut.
    const height = (1 - Math.min(1, value / this.#most)) * (HEIGHT - 4) + 2;
    return [round((1 - (this.#to - at) / this.#span) * WIDTH), round(height)];
  }

  #words(value, whole = false) {
    const { digits, unit } = this.#shape;
    const figure = value.toLocaleString(undefined, {
      minimumFractionDigits: whole ? 0 : digits,
      maximumFractionDigits: digits,
    });
    return `${figure} ${unit}`;
  }
}

/** No more points than can be seen: of each group the lowest and the highest. */
function thinned(points) {
  const size = Math.ceil(points.length / WIDTH) * 2;
  if (size <= 2) return points;
  const found = [];
  for (let first = 0; first < points.length; first += size) {
    const group = points.slice(first, first + size);
    const low = group.reduce((one, other) => (other.value < one.value ? other : one));
    const high = group.reduce((one, other) => (other.value > one.value ? other : one));
    found.push(...(low.at < high.at ? [low, high] : low === high ? [low] : [high, low]));
  }
  return found;
}

const round = (value) => Math.round(value * 10) / 10;

function path(name) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("class", name);
  return element;
}
