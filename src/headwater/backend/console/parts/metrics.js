/** One satellite's metrics as four small charts. */

import { Chart } from "./chart.js";
import { Choice } from "./choice.js";
import { Part } from "./part.js";

const SHAPES = [
  { kind: "cpu", title: "CPU", unit: "%", digits: 1, most: 100, read: (one) => one.cpu_percent },
  { kind: "memory", title: "Memory", unit: "MB", digits: 0, read: (one) => one.memory_mb },
  { kind: "requests", title: "Requests", unit: "/s", digits: 1, read: (one) => one.requests_per_s },
  { kind: "errors", title: "Errors", unit: "/s", digits: 2, read: (one) => one.errors_per_s },
];

export class Metrics extends Part {
  #charts = SHAPES.map((shape) => new Chart(shape));
  #choice = new Choice(this.find("[data-choice]"), {
    name: "satellite",
    path: "/api/satellites",
    collection: "satellites",
    none: "No satellite is registered yet.",
    say: (...words) => this.say(...words),
    onChoose: (satellite) => this.#show(satellite),
  });
  size = 0;

  constructor(...given) {
    super(...given);
    this.content.append(...this.#charts.map((chart) => chart.element));
  }

  get emptyText() {
    return "This satellite has reported nothing yet.";
  }

  start() {
    return this.#choice.load();
  }

  snapshot(reports) {
    this.size = reports.length;
    this.content.hidden = this.size === 0;
    for (const chart of this.#charts) chart.set(reports);
  }

  item(report) {
    this.size += 1;
    this.content.hidden = false;
    for (const chart of this.#charts) chart.add(report);
  }

  #show(satellite) {
    if (!satellite) return this.stop();
    const path = `/api/satellites/${encodeURIComponent(satellite.id)}/metrics`;
    this.follow({ path, event: "metrics", collection: "metrics", params: { limit: 100 } });
  }
}
