/** The live log: follows the newest line unless one scrolls up or pauses. */

import { atBottom, clockTime, el } from "../dom.js";
import { Part } from "./part.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];
// Lines kept in the page; older ones leave at the top.
const ROWS = 300;

export class Logs extends Part {
  #scroll = this.find("[data-scroll]");
  #pause = this.find("[data-pause]");
  #jump = this.find("[data-jump]");
  #source = this.find("[data-source]");
  #sources = new Set();
  #level = "";
  #waiting = []; // entries not in the page yet: of this frame, or since the pause
  #missed = 0; // lines below what one looks at
  #following = true;
  #top = 0; // where the list was scrolled to
  #frame = 0;

  constructor(...given) {
    super(...given);
    this.find("[data-levels]").append(...["", ...LEVELS].map((level) => this.#levelChoice(level)));
    this.#source.append(el("option", { value: "" }, "All sources"));
    this.#source.addEventListener("change", () => this.start());
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#paused));
    this.#jump.addEventListener("click", () => this.#toNewest());
    this.#scroll.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.#following && this.#toNewest()).observe(this.#scroll);
    this.content.addEventListener("keydown", (event) => this.#move(event));
  }

  get size() {
    return this.content.childElementCount + this.#waiting.length;
  }

  get emptyText() {
    return this.#level || this.#source.value
      ? "No line matches the filter yet."
      : "No log lines yet. They show up here as they are written.";
  }

  start() {
    const params = { limit: 100, level: this.#level, source: this.#source.value };
    this.follow({ path: "/api/logs", event: "log", collection: "logs", params });
  }

  stop() {
    super.stop();
    this.#sources.clear();
    this.#source.replaceChildren(el("option", { value: "" }, "All sources"));
    this.#setPaused(false);
  }

  snapshot(items) {
    this.content.replaceChildren();
    this.#waiting = [];
    this.#following = true;
    for (const item of items) this.item(item);
    this.#flush();
  }

  item(item) {
    this.#waiting.push(item);
    if (this.#waiting.length > ROWS) this.#waiting.shift();
    if (this.#paused) this.#showPaused();
    else this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  get #paused() {
    return this.#pause.getAttribute("aria-pressed") === "true";
  }

  /** Put what waits into the page, in one go per frame. */
  #flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const entries = this.#waiting;
    this.#waiting = [];
    for (const { source } of entries) this.#noteSource(source);
    this.content.append(...entries.map(row));
    while (this.content.childElementCount > ROWS) this.content.firstElementChild.remove();
    if (!this.content.contains(document.activeElement)) this.#stopAt(this.content.lastElementChild);
    if (this.#following) this.#toNewest();
    else this.#showMissed(this.#missed + entries.length);
  }

  #toNewest() {
    this.#following = true;
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#showMissed(0);
  }

  /** Only scrolling up ends following: a panel that shrinks leaves the bottom out of sight too. */
  #scrolled() {
    const { scrollTop } = this.#scroll;
    if (atBottom(this.#scroll)) this.#toNewest();
    else if (scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
  }

  #showMissed(count) {
    this.#missed = count;
    this.#jump.hidden = count === 0;
    this.#jump.textContent = `${count} new ${count === 1 ? "line" : "lines"} below`;
  }

  #setPaused(paused) {
    this.#pause.setAttribute("aria-pressed", String(paused));
    this.#showPaused();
    if (!paused) this.#flush();
  }

  #showPaused() {
    const count = this.#waiting.length;
    const words = count >= ROWS ? `${ROWS}+` : count;
    this.#pause.textContent = !this.#paused ? "Pause" : count ? `Resume (${words})` : "Resume";
  }

  #levelChoice(level) {
    const radio = el("input", {
      type: "radio",
      name: "level",
      value: level,
      checked: level === this.#level,
      class: "sr-only",
      onchange: () => {
        this.#level = level;
        this.start();
      },
    });
    return el("label", { "data-level": level || "all" }, radio, level || "all");
  }

  #noteSource(source) {
    if (!source || this.#sources.has(source)) return;
    this.#sources.add(source);
    const chosen = this.#source.value;
    const options = [...this.#sources].sort().map((name) => el("option", { value: name }, name));
    this.#source.replaceChildren(el("option", { value: "" }, "All sources"), ...options);
    this.#source.value = chosen;
  }

  /** Arrow keys go from line to line, so that the whole log is one stop of the Tab key. */
  #move(event) {
    const here = event.target.closest("li");
    const next = {
      ArrowUp: here?.previousElementSibling,
      ArrowDown: here?.nextElementSibling,
      Home: this.content.firstElementChild,
      End: this.content.lastElementChild,
    }[event.key];
    if (!next) return;
    event.preventDefault();
    this.#stopAt(next);
    next.querySelector("summary").focus();
  }

  #stopAt(line) {
    this.content.querySelector("summary[tabindex='0']")?.setAttribute("tabindex", "-1");
    line?.querySelector("summary").setAttribute("tabindex", "0");
  }
}

function row(entry) {
  const fields = Object.entries(entry.fields ?? {});
  const preview = fields.map(([name, value]) => `${name}=${text(value)}`).join(" ");
  const summary = el(
    "summary",
    { tabIndex: -1 },
    clockTime(entry.created_at),
    el("span", { class: "level" }, entry.level),
    el("span", { class: "source", title: entry.source }, entry.source),
    el("span", { class: "message" }, entry.message, " ", el("span", { class: "preview" }, preview)),
  );
  // Marking text in a line must not fold it open.
  summary.addEventListener("click", (event) => {
    if (getSelection().containsNode(summary, true) && !getSelection().isCollapsed) {
      event.preventDefault();
    }
  });
  const details = el("details", {}, summary);
  details.addEventListener("toggle", () => details.append(allFields(entry, fields)), {
    once: true,
  });
  return el("li", { "data-level": entry.level, "data-id": entry.id }, details);
}

function allFields(entry, fields) {
  const shown = [...fields, ["written", entry.created_at], ["id", entry.id]];
  return el(
    "dl",
    {},
    ...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, text(value)))),
  );
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
