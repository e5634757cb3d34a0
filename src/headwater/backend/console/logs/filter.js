/** What of the log is shown: levels and a source, which the server filters, text and fields. */

import { el } from "../dom.js";
import { searched, shown } from "./line.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];
const PAUSE = 120; // milliseconds without a key before a search

export class LogFilter {
  levels = new Set();
  fields = new Map(); // name -> value
  text = "";
  #root;
  #find;
  #sources = new Set();
  #texts = new WeakMap(); // entry -> its searched text
  #timer;
  #onServer;
  #onPage;

  /** `onServer()` is called when the server must be asked anew, `onPage()` when it need not. */
  constructor(root, onServer, onPage) {
    this.#root = root;
    this.#find = (name) => root.querySelector(`[data-${name}]`);
    this.#onServer = onServer;
    this.#onPage = onPage;
    this.#find("levels").append(...LEVELS.map((level) => this.#levelChoice(level)));
    this.#find("source").addEventListener("change", onServer);
    this.#find("search").addEventListener("input", ({ target }) => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => {
        this.text = target.value.trim().toLowerCase();
        onPage();
      }, PAUSE);
    });
    this.clear();
  }

  get source() {
    return this.#find("source").value;
  }

  /** What the server is asked for. */
  get params() {
    return { level: [...this.levels], source: this.source };
  }

  get any() {
    return Boolean(this.levels.size || this.source || this.text || this.fields.size);
  }

  /** Whether the page itself leaves lines out. */
  get narrows() {
    return Boolean(this.text || this.fields.size);
  }

  admits(entry) {
    for (const [name, value] of this.fields) {
      if (shown(entry.fields?.[name] ?? "") !== value) return false;
    }
    if (!this.text) return true;
    let text = this.#texts.get(entry);
    if (text === undefined) this.#texts.set(entry, (text = searched(entry)));
    return text.includes(this.text);
  }

  /** Only lines like one that was clicked. Fields may be called `level` and `source` too. */
  only(name, value, ofFields) {
    if (ofFields) {
      this.fields.set(name, value);
      this.#showFields();
      return this.#onPage();
    }
    if (name === "level") {
      this.levels = new Set([value]);
      this.#showLevels();
    } else this.#find("source").value = value;
    this.#onServer();
  }

  noteSource(source) {
    if (!source || this.#sources.has(source)) return;
    this.#sources.add(source);
    const select = this.#find("source");
    const chosen = select.value;
    const options = [...this.#sources].sort().map((name) => el("option", { value: name }, name));
    select.replaceChildren(el("option", { value: "" }, "All sources"), ...options);
    select.value = chosen;
  }

  /** Forget everything: somebody else may sign in next. */
  clear() {
    this.levels = new Set();
    this.fields.clear();
    this.text = this.#find("search").value = "";
    this.#sources.clear();
    this.#find("source").replaceChildren(el("option", { value: "" }, "All sources"));
    this.#showLevels();
    this.#showFields();
  }

  #levelChoice(level) {
    const box = el("input", { type: "checkbox", name: "level", value: level, class: "sr-only" });
    box.addEventListener("change", () => {
      if (box.checked) this.levels.add(level);
      else this.levels.delete(level);
      this.#onServer();
    });
    return el("label", { "data-level": level }, box, level);
  }

  #showLevels() {
    for (const box of this.#root.querySelectorAll("input[name=level]")) {
      box.checked = this.levels.has(box.value);
    }
  }

  #showFields() {
    const chips = [...this.fields].map(([name, value]) => {
      const label = `Remove the filter ${name}=${value}`;
      const chip = el("button", { type: "button", class: "chip", "aria-label": label });
      chip.append(`${name}=${value}`, el("span", { "aria-hidden": "true" }, " ×"));
      chip.addEventListener("click", () => {
        this.fields.delete(name);
        this.#showFields();
        this.#onPage();
      });
      return chip;
    });
    this.#find("chips").replaceChildren(...chips);
    this.#find("chips").hidden = chips.length === 0;
  }
}
