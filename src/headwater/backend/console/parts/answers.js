/** Answers of the demo's scripted model: runs, the newest first, each with its text as it comes. */

import { request } from "../api.js";
import { agoTime, el } from "../dom.js";
import { followRun } from "../headwater.js";
import { Part } from "./part.js";

const SHOWN = 10;
const WORDS = {
  queued: "waiting",
  running: "writing",
  done: "",
  failed: "failed",
  cancelled: "stopped",
  lost: "lost: the server that wrote this has died",
};
const ACTIVE = ["queued", "running"];

export class Answers extends Part {
  emptyText = "Ask something. Then reload the page, open it twice, or kill the server.";
  #rows = new Map(); // by id
  #form = this.find("[data-ask]");
  #error = this.find("[data-error]");

  constructor(root, page) {
    super(root, page);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
  }

  get size() {
    return this.#rows.size;
  }

  start() {
    this.root.hidden = false;
    const params = { limit: SHOWN };
    this.follow({ path: "/api/answers", event: "run", collection: "runs", params });
  }

  snapshot(runs) {
    const kept = new Set(runs.map(({ id }) => id));
    for (const id of this.#rows.keys()) if (!kept.has(id)) this.#drop(id);
    for (const run of [...runs].sort((one, other) => (one.created_at < other.created_at ? -1 : 1))) {
      this.item(run);
    }
  }

  item(run) {
    const known = this.#rows.get(run.id);
    if (known) return known.show(run.state);
    const row = new Row(run);
    this.#rows.set(run.id, row);
    this.content.prepend(row.element);
    while (this.size > SHOWN) this.#drop(this.#rows.keys().next().value);
  }

  removed({ id }) {
    this.#drop(id);
  }

  #drop(id) {
    this.#rows.get(id)?.close();
    this.#rows.delete(id);
  }

  async #ask() {
    const [input, button] = this.#form.elements;
    const text = input.value.trim();
    if (!text) return;
    button.disabled = true;
    this.#error.textContent = "";
    try {
      this.item(await request("/api/answers", { method: "POST", body: { text } }));
      this.explain();
      input.value = "";
    } catch (problem) {
      this.#error.textContent = problem.message;
    } finally {
      button.disabled = false;
      input.focus();
    }
  }
}

/** One answer. */
class Row {
  #text = el("p", { class: "text" });
  #state = el("span", { class: "state" });
  #stop = el("button", { type: "button", class: "small" }, "Stop");
  #run;

  constructor({ id, group, state, created_at: at }) {
    const meta = el("p", { class: "meta" }, agoTime(at), this.#state, this.#stop);
    this.element = el("li", { "data-id": id }, el("p", { class: "question" }, group), this.#text, meta);
    this.#stop.setAttribute("aria-label", `Stop the answer to: ${group}`);
    this.#stop.addEventListener("click", () => this.#cancel(id));
    this.show(state);
    this.#run = followRun(`/api/answers/${id}`, {
      onChange: (run) => {
        this.#text.textContent = run.text;
        this.show(run.state);
      },
    });
  }

  show(state) {
    // The list and the run itself say it; an end is never taken back.
    if (!ACTIVE.includes(this.element.dataset.state ?? "queued")) return;
    this.element.dataset.state = state;
    this.#state.textContent = WORDS[state] ?? state;
    this.#stop.hidden = !ACTIVE.includes(state);
  }

  close() {
    this.#run.close();
    this.element.remove();
  }

  async #cancel(id) {
    this.#stop.disabled = true;
    try {
      await request(`/api/answers/${id}/cancel`, { method: "POST" });
    } catch (problem) {
      this.#state.textContent = problem.message;
    }
    this.#stop.disabled = false;
  }
}
