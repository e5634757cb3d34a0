/** The satellites at a glance: one row each, updated in place by a live query and a poll. */

import { agoTime, el, number } from "../dom.js";
import { Rows } from "./rows.js";

export class Status extends Rows {
  row = row;

  get emptyText() {
    return "There is no satellite that you may see. An administrator registers one under Manage.";
  }

  start() {
    this.follow({ path: "/api/satellites/status", event: "satellite", collection: "satellites" });
  }
}

/** A row; what changed since the `last` one lights up. */
function row(item, last = null) {
  const figure = (of) => {
    const value = of(item);
    const changed = last && of(last.item) !== value;
    const text = value === undefined ? "–" : number(value);
    return el("td", { class: changed ? "figure changed" : "figure" }, text);
  };
  const element = el(
    "tr",
    { "data-id": item.id },
    el("th", { scope: "row", title: item.name }, item.name),
    figure(({ clients }) => clients),
    figure(({ metrics }) => (metrics ? Math.round(metrics.cpu_percent) : undefined)),
    figure((each) => each.errors_last_5_minutes),
    el("td", { class: "figure faint" }, item.metrics ? agoTime(item.metrics.at) : "never"),
  );
  if (!last) element.classList.add("fresh");
  return { item, element, name: `${item.name} ${item.id}` };
}
