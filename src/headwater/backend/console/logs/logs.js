/** The live log: follows the newest line unless one scrolls up, pauses or opens a line. */

import { address, request } from "../api.js";
import { command, copy, number } from "../dom.js";
import { Part } from "../parts/part.js";
import { LogFilter } from "./filter.js";
import { lineElement } from "./line.js";
import { LineList } from "./list.js";

// Lines that are kept; the oldest leave, a few hundred at a time.
const KEPT = 100_000;
const LEAVE = 500;
const OLDER = 100;
// Pages to look through for older lines, where it is not known where those at hand begin.
const LOOKS = 20;

export class Logs extends Part {
  #pause = this.find("[data-pause]");
  #jump = this.find("[data-jump]");
  #older = this.find("[data-older]");
  #count = this.find("[data-kept]");
  #all = []; // the lines that are kept, oldest first
  #waiting = []; // those that came in this frame, or since the pause
  #ids = new Set();
  #start = null; // where the oldest of them begins; null where that is not known
  #missed = 0; // lines below what one looks at
  #frame = 0;
  #filter = new LogFilter(this.root, () => this.start(), () => this.#narrow());
  #list = new LineList(
    this.find("[data-scroll]"),
    this.content,
    (line, open) =>
      lineElement(line, open, {
        onToggle: (entry, element) => this.#list.toggle(entry, element),
        onFilter: (...chosen) => this.#filter.only(...chosen),
      }),
    () => this.#list.following && this.#showMissed(0),
  );

  constructor(...given) {
    super(...given);
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#paused));
    this.#jump.addEventListener("click", () => {
      this.#showMissed(0);
      this.#list.toEnd();
    });
    this.#older.addEventListener("click", () => this.#loadOlder());
    const button = this.find("[data-copy-lines]");
    button.addEventListener("click", () => {
      copy(this.#list.lines.map((line) => JSON.stringify(line)).join("\n"), button);
    });
  }

  get size() {
    return this.#list.length + this.#waiting.length;
  }

  get emptyText() {
    if (this.#filter.any) return "No line matches the filter yet.";
    const words = `headwater publish ${location.origin}/api/logs --data '{"message": "Hello"}'`;
    return ["No log lines yet. Write one, with your API key in HEADWATER_TOKEN:", command(words)];
  }

  start() {
    const params = { limit: 100, ...this.#filter.params };
    this.follow({ path: "/api/logs", event: "log", collection: "logs", params });
  }

  stop() {
    super.stop();
    this.#filter.clear();
    this.#setPaused(false);
  }

  snapshot(items, page = {}) {
    this.#all = [...items];
    this.#ids = new Set(items.map(({ id }) => id));
    this.#waiting = [];
    this.#start = page.start ?? null;
    this.#older.hidden = items.length === 0 || page.has_more === false;
    for (const { source } of items) this.#filter.noteSource(source);
    this.#list.following = true;
    this.#narrow();
  }

  item(item) {
    this.#waiting.push(item);
    if (this.#waiting.length > KEPT) this.#waiting.shift();
    if (this.#paused) this.#showPaused();
    else this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  get #paused() {
    return this.#pause.getAttribute("aria-pressed") === "true";
  }

  /** Put what waits into the list, in one go per frame. */
  #flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const entries = this.#waiting;
    this.#waiting = [];
    for (const entry of entries) {
      this.#filter.noteSource(entry.source);
      this.#all.push(entry);
      this.#ids.add(entry.id);
    }
    const lines = this.#list.lines;
    const seen = this.#filter.narrows ? entries.filter((one) => this.#filter.admits(one)) : entries;
    if (lines !== this.#all) for (const entry of seen) lines.push(entry);
    this.#list.appended(this.#trim());
    if (this.#list.following) this.#showMissed(0);
    else this.#showMissed(this.#missed + seen.length);
    this.#showCount();
  }

  /** The lines that leave the list because too many are kept. */
  #trim() {
    if (this.#all.length < KEPT + LEAVE) return [];
    const lines = this.#list.lines;
    const gone = this.#all.splice(0, this.#all.length - KEPT);
    for (const { id } of gone) this.#ids.delete(id);
    this.#start = null;
    if (lines === this.#all) return gone;
    const left = new Set(gone);
    const count = lines.findIndex((line) => !left.has(line));
    return lines.splice(0, count < 0 ? lines.length : count);
  }

  /** The search or a field's filter changed: other lines of those that are kept. */
  #narrow() {
    const { narrows } = this.#filter;
    this.#list.set(narrows ? this.#all.filter((one) => this.#filter.admits(one)) : this.#all);
    this.#showMissed(0);
    this.#showCount();
    if (this.state !== "idle") this.explain();
  }

  async #loadOlder() {
    this.#older.disabled = true;
    const { params } = this.#filter;
    try {
      let before = this.#start ?? this.position;
      for (let look = 0; look < LOOKS; look += 1) {
        const page = await request(address("/api/logs", { ...params, limit: OLDER, before }));
        before = this.#start = page.start;
        this.#older.hidden = !page.has_more;
        const fresh = page.logs.filter(({ id }) => !this.#ids.has(id));
        if (fresh.length) return this.#prepend(fresh);
        if (!page.has_more) return;
      }
    } catch (problem) {
      this.#older.title = problem.message;
    } finally {
      this.#older.disabled = false;
    }
  }

  #prepend(entries) {
    for (const { id, source } of entries) {
      this.#ids.add(id);
      this.#filter.noteSource(source);
    }
    const lines = this.#list.lines;
    this.#all.unshift(...entries);
    const seen = entries.filter((one) => this.#filter.admits(one));
    if (lines !== this.#all) lines.unshift(...seen);
    this.#list.following = false;
    this.#list.prepended(seen.length);
    this.#showCount();
  }

  #showCount() {
    const [all, shown] = [this.#all.length, this.#list.length];
    const words = `${number(all)} ${all === 1 ? "line" : "lines"}`;
    this.#count.textContent = shown === all ? words : `${number(shown)} of ${words}`;
  }

  #showMissed(count) {
    this.#missed = count;
    this.#jump.hidden = count === 0;
    this.#jump.textContent = `${number(count)} new ${count === 1 ? "line" : "lines"} below`;
  }

  #setPaused(paused) {
    this.#pause.setAttribute("aria-pressed", String(paused));
    this.#showPaused();
    if (!paused) this.#flush();
  }

  #showPaused() {
    const count = this.#waiting.length;
    this.#pause.textContent = !this.#paused ? "Pause" : count ? `Resume (${number(count)})` : "Resume";
  }
}
