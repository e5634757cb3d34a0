/** One line of the log, closed or open, and what text in it is searched. */

import { clockTime, copy, el } from "../dom.js";

/** `onFilter(name, value, ofFields)` is called for the level, source or field that one clicks. */
export function lineElement(entry, open, { onToggle, onFilter }) {
  const fields = Object.entries(entry.fields ?? {});
  const preview = fields.map(([name, value]) => `${name}=${shown(value)}`).join(" ");
  const summary = el(
    "div",
    { class: "summary", role: "button", "data-toggle": true, "aria-expanded": String(open) },
    clockTime(entry.created_at),
    el("span", { class: "level" }, entry.level),
    el("span", { class: "source", title: entry.source }, entry.source),
    el("span", { class: "message" }, entry.message, " ", el("span", { class: "preview" }, preview)),
  );
  const element = el(
    "div",
    { class: open ? "line open" : "line", role: "listitem" },
    summary,
    open ? details(entry, fields, onFilter) : null,
  );
  element.dataset.level = entry.level;
  element.dataset.id = entry.id;
  // Marking text in a line must not open it.
  summary.addEventListener("click", () => {
    const marked = getSelection();
    if (marked.isCollapsed || !marked.containsNode(summary, true)) onToggle(entry, element);
  });
  return element;
}

function details(entry, fields, onFilter) {
  const known = [["level", entry.level], ["source", entry.source]];
  const plain = [["written", entry.created_at], ["id", entry.id]];
  const button = el("button", { type: "button", class: "small" }, "Copy as JSON");
  button.addEventListener("click", () => copy(JSON.stringify(entry, null, 2), button));
  return el(
    "div",
    { class: "details" },
    el(
      "dl",
      {},
      ...[...known, ...fields].map(([name, value], place) => {
        const ofFields = place >= known.length;
        return el("div", {}, el("dt", {}, name), el("dd", {}, filterButton(name, value, onFilter, ofFields)));
      }),
      ...plain.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    button,
  );
}

function filterButton(name, value, onFilter, ofFields) {
  const words = shown(value);
  const title = `Only lines with ${name}=${words}`;
  const button = el("button", { type: "button", class: "field", title }, words);
  button.addEventListener("click", () => onFilter(name, words, ofFields));
  return button;
}

/** Everything of a line that a search looks in, in lower case. */
export function searched(entry) {
  const fields = Object.entries(entry.fields ?? {});
  const words = fields.map(([name, value]) => `${name}=${shown(value)}`);
  return [entry.level, entry.source, entry.message, ...words].join(" ").toLowerCase();
}

export function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
