/** What a feed holds just now: its items by key, the oldest first, no more than a number of them. */

export class View {
  items = new Map();
  #fields;
  #keep;
  #next = 0; // names items that have no key

  /** `key`: a field, several of them, or a function of an item. */
  constructor(key, keep) {
    this.#fields = typeof key === "function" ? key : [key].flat();
    this.#keep = keep;
  }

  replace(items) {
    this.items.clear();
    for (const item of items) this.put(item);
  }

  put(item) {
    this.items.set(this.#keyOf(item) ?? Symbol(this.#next++), item);
    if (this.items.size > this.#keep) this.items.delete(this.items.keys().next().value);
  }

  remove(key) {
    this.items.delete(this.#keyOf(key));
  }

  #keyOf(item) {
    if (typeof this.#fields === "function") return this.#fields(item);
    const values = this.#fields.map((field) => item?.[field]);
    if (values.includes(undefined)) return undefined;
    return values.length === 1 ? values[0] : JSON.stringify(values);
  }
}
