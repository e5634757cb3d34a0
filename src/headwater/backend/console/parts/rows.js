/** A table with one row for each item, by its id: in order of name, so that a row stays where it is. */

import { Part } from "./part.js";

/** A subclass gives `row(item, last)`: `{name, element}` for an item, made from its `last` row if any. */
export class Rows extends Part {
  #body = this.find("tbody");
  #rows = new Map(); // id -> row

  get size() {
    return this.#rows.size;
  }

  snapshot(items) {
    this.#rows = new Map(items.map((item) => [item.id, this.row(item)]));
    this.#sort();
  }

  item(item) {
    const last = this.#rows.get(item.id);
    const next = this.row(item, last);
    this.#rows.set(item.id, next);
    if (last) last.element.replaceWith(next.element);
    else this.#sort();
  }

  removed({ id }) {
    this.#rows.get(id)?.element.remove();
    this.#rows.delete(id);
    this.#sort();
  }

  #sort() {
    const ranked = [...this.#rows.values()].sort((one, other) => (one.name < other.name ? -1 : 1));
    this.#body.replaceChildren(...ranked.map(({ element }) => element));
    this.content.hidden = this.size === 0;
  }
}
