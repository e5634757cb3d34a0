/** One line over time, with its newest value; drawn as SVG and styled by the page's own CSS. */

import { ago, clock, el } from "../dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 64;
// Reports in a chart; with one every 2 s that is 5 minutes.
const POINTS = 150;

export class Chart {
  #points = []; // {at: ms, value}
  #shape;
  #line = path("line");
  #area = path("area");
  #value = el("span", { class: "value" }, "–");
  #detail = el("span", { class: "detail", title: "Lowest to highest in the chart" });
  #top = el("span", { class: "tick highest" });
  #from = el("span", { class: "tick from" });
  #dot = el("span", { class: "newest", hidden: true });
  #cursor = el("span", { class: "cursor", hidden: true });
  #picture;

  /** `shape`: {title, unit, read(report), most, digits}; `most` fixes the top of the scale. */
  constructor(shape) {
    this.#shape = shape;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(this.#area, this.#line);
    this.#picture = el(
      "div",
      { class: "plot", role: "img" },
      ...[svg, this.#dot, this.#cursor, this.#top, this.#from],
    );
    this.#picture.addEventListener("pointermove", (event) => this.#point(event));
    this.#picture.addEventListener("pointerleave", () => this.#draw());
    this.element = el(
      "figure",
      { class: "chart", "data-kind": shape.kind },
      el("figcaption", {}, el("span", { class: "title" }, shape.title), this.#value, this.#detail),
      this.#picture,
    );
  }

  set(reports) {
    this.#points = reports.slice(-POINTS).map((report) => this.#read(report));
    this.#draw();
  }

  add(report) {
    this.#points.push(this.#read(report));
    if (this.#points.length > POINTS) this.#points.shift();
    if (this.#cursor.hidden) this.#draw();
  }

  #read(report) {
    return { at: Date.parse(report.at), value: this.#shape.read(report) };
  }

  get #most() {
    const highest = Math.max(...this.#points.map(({ value }) => value), 0);
    return this.#shape.most ?? roundedUp(highest * 1.2);
  }

  #draw() {
    const points = this.#points;
    const last = points.at(-1);
    this.#cursor.hidden = true;
    this.#dot.hidden = !last;
    this.#line.setAttribute("d", "");
    this.#area.setAttribute("d", "");
    this.#top.textContent = this.#from.textContent = this.#detail.textContent = "";
    this.#value.textContent = "–";
    if (!last) return this.#picture.setAttribute("aria-label", `${this.#shape.title}: no data`);

    const runs = unbroken(points).map((run) => run.map((point) => this.#place(point)));
    this.#line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
    this.#area.setAttribute(
      "d",
      runs.map((run) => `M${run[0][0]},${HEIGHT}L${run.join("L")}V${HEIGHT}Z`).join(""),
    );
    this.#mark(this.#dot, last);
    this.#top.textContent = this.#words(this.#most, true);
    this.#from.textContent = points.length > 1 ? ago(points[0].at) : "";
    this.#value.textContent = this.#words(last.value);
    const values = points.map(({ value }) => value);
    const range = [Math.min(...values), Math.max(...values)].map((value) => this.#words(value));
    this.#detail.textContent = range.map((words) => words.split(" ")[0]).join(" to ");
    this.#picture.setAttribute(
      "aria-label",
      `${this.#shape.title}: now ${this.#words(last.value)}, between ${range.join(" and ")}`,
    );
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
    const first = this.#points[0].at;
    const span = this.#points.at(-1).at - first || 1;
    // Two units of room, so that a line at the very top or bottom is not cut.
    const height = (1 - Math.min(1, value / this.#most)) * (HEIGHT - 4) + 2;
    return [round(((at - first) / span) * WIDTH), round(height)];
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

/** The runs of reports between which none is missing: a gap is shown as one. */
function unbroken(points) {
  const steps = points.slice(1).map((point, index) => point.at - points[index].at);
  const usual = [...steps].sort((one, other) => one - other)[Math.floor(steps.length / 2)] ?? 0;
  const runs = [[points[0]]];
  steps.forEach((step, index) => {
    if (step > Math.max(10_000, usual * 5)) runs.push([]);
    runs.at(-1).push(points[index + 1]);
  });
  return runs;
}

/** The next round figure above `value`, so that the scale seldom jumps. */
function roundedUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 3, 5, 10].find((step) => step * power >= value);
}

const round = (value) => Math.round(value * 10) / 10;

function path(name) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("class", name);
  return element;
}
