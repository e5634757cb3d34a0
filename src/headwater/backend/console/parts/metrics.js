/** One satellite's metrics as four small charts. */

import { address, request } from "../api.js";
import { command, el, memory } from "../dom.js";
import { Chart } from "./chart.js";
import { Choice } from "./choice.js";
import { Part } from "./part.js";

const SHAPES = [
  { kind: "cpu", title: "CPU", unit: "%", digits: 1, most: 100, read: (one) => one.cpu_percent },
  { kind: "memory", title: "Memory", unit: "MB", digits: 0, read: (one) => one.memory_mb },
  { kind: "requests", title: "Requests", unit: "/s", digits: 1, read: (one) => one.requests_per_s },
  { kind: "errors", title: "Errors", unit: "/s", digits: 2, read: (one) => one.errors_per_s },
];

const RANGES = [
  [5, "5 minutes"],
  [15, "15 minutes"],
  [60, "hour"],
  [360, "6 hours"],
];
const PAGE = 100;
// Pages that are read to fill a range: satellites report each few seconds.
const PAGES = 60;

export class Metrics extends Part {
  #charts = SHAPES.map((shape) => new Chart(shape));
  #range = this.find("[data-range]");
  #satellite = null;
  #reports = [];
  #filling = 0; // which filling of the range is the last one
  #choice = new Choice(this.find("[data-choice]"), {
    name: "satellite",
    path: "/api/satellites",
    collection: "satellites",
    none: "No satellite is registered yet.",
    say: (...words) => this.say(...words),
    onChoose: (satellite) => this.#show(satellite),
  });

  constructor(...given) {
    super(...given);
    this.content.append(...this.#charts.map((chart) => chart.element));
    const options = RANGES.map(([minutes, words]) => el("option", { value: minutes }, `last ${words}`));
    this.#range.append(...options);
    this.#range.value = memory.get("metrics-range") ?? "5";
    if (!this.#range.value) this.#range.value = "5";
    this.#range.addEventListener("change", () => {
      memory.set("metrics-range", this.#range.value);
      this.#fill();
    });
    setInterval(() => this.#draw(), 2_000);
  }

  get size() {
    return this.#reports.length;
  }

  get emptyText() {
    const { id } = this.#satellite ?? {};
    const body = '{"cpu_percent": 12, "memory_mb": 512, "requests_per_s": 3, "errors_per_s": 0}';
    const words = `headwater publish ${location.origin}/api/satellites/${id}/metrics --data '${body}'`;
    return [
      "This satellite has reported nothing yet. Report, with its key in HEADWATER_TOKEN:",
      command(words),
    ];
  }

  start() {
    return this.#choice.load();
  }

  snapshot(reports, page = {}) {
    this.#reports = [...reports];
    this.content.hidden = this.size === 0;
    this.#fill(page.start);
  }

  item(report) {
    this.#reports.push(report);
    const from = Date.now() - this.#span * 1.1;
    while (Date.parse(this.#reports[0].at) < from && this.size > 1) this.#reports.shift();
    this.content.hidden = false;
    for (const chart of this.#charts) chart.add(report);
  }

  get #span() {
    return Number(this.#range.value) * 60_000;
  }

  #draw() {
    if (this.size) for (const chart of this.#charts) chart.draw();
  }

  /** Read older reports until the range is full. */
  async #fill(start = null) {
    const filling = ++this.#filling;
    const shown = () => this.#charts.forEach((chart) => chart.set(this.#reports, this.#span));
    shown();
    let before = start ?? this.position;
    const from = Date.now() - this.#span;
    for (let page = 0; page < PAGES && before && this.size; page += 1) {
      if (Date.parse(this.#reports[0].at) <= from) return;
      const { pathname } = new URL(this.address, location.href);
      const found = await request(address(pathname, { before, limit: PAGE })).catch(() => null);
      if (!found || filling !== this.#filling) return;
      const known = new Set(this.#reports.map(({ id }) => id));
      this.#reports.unshift(...found.metrics.filter(({ id }) => !known.has(id)));
      shown();
      if (!found.has_more) return;
      before = found.start;
    }
  }

  #show(satellite) {
    this.#satellite = satellite;
    if (!satellite) return this.stop();
    const path = `/api/satellites/${encodeURIComponent(satellite.id)}/metrics`;
    this.follow({ path, event: "metrics", collection: "metrics", params: { limit: PAGE } });
  }
}
