/** A select that is filled from a REST list and remembers what was chosen last. */

import { everything } from "../api.js";
import { el, memory } from "../dom.js";

export class Choice {
  #select;
  #options;
  items = [];

  /**
   * `options`: {name, path, collection, none, onChoose, say}. `onChoose(item | null)` is called
   * for the first choice and each later one; `say` shows a note; `none` is its text when the list
   * is empty.
   */
  constructor(select, options) {
    this.#select = select;
    this.#options = options;
    select.addEventListener("change", () => {
      memory.set(options.name, select.value);
      this.#choose();
    });
  }

  async load() {
    const { name, path, collection, none, onChoose, say } = this.#options;
    const again = { label: "Look again", act: () => this.load() };
    this.#select.hidden = true;
    try {
      this.items = await everything(path, collection);
    } catch (problem) {
      this.items = [];
      onChoose(null);
      say(problem.message, again);
      return;
    }
    this.#select.replaceChildren(
      ...this.items.map((item) => el("option", { value: item.id }, item.name)),
    );
    if (this.items.length === 0) {
      onChoose(null);
      say(none, again);
      return;
    }
    this.#select.hidden = false;
    const last = memory.get(name);
    if (this.items.some((item) => item.id === last)) this.#select.value = last;
    this.#choose();
  }

  #choose() {
    const chosen = this.items.find((item) => item.id === this.#select.value);
    this.#options.onChoose(chosen);
  }
}
