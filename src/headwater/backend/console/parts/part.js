/** What the five parts have in common: a feed, its light, and a note for empty and error states. */

import { el } from "../dom.js";
import { Light } from "../live/light.js";

const REFUSED = {
  403: "You have no right to see this. Someone may have changed your role.",
  404: "This no longer exists, or you may no longer see it.",
  422: "The server does not accept this choice.",
};

/** A part shows one feed. It gives `snapshot(items)`, `item(item)` and, if keyed, `removed(key)`. */
export class Part {
  #follow = null;
  #light;
  #link;
  #note;
  #onState;
  #status = null;

  /** `onState()` is called whenever the state of the part's feed changes. */
  constructor(root, link, onState) {
    this.root = root;
    this.content = this.find("[data-content]");
    this.#link = link;
    this.#light = new Light(this.find(".light"));
    this.#note = this.find("[data-note]");
    this.#onState = onState;
  }

  get state() {
    return this.#light.state;
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  /** Follow a feed in place of the last one. What is shown stays until the new one's snapshot. */
  follow(spec) {
    this.leave();
    this.content.setAttribute("aria-busy", "true");
    this.#follow = this.#link.follow(spec, {
      snapshot: (items) => {
        this.content.removeAttribute("aria-busy");
        this.snapshot(items);
        this.#explain();
      },
      item: (item) => {
        this.item(item);
        this.#explain();
      },
      removed: (key) => {
        this.removed(key);
        this.#explain();
      },
      state: (state, status) => this.#show(state, status),
    });
  }

  leave() {
    this.#follow?.leave();
    this.#follow = null;
    this.#show("idle");
  }

  /** Leave the feed and forget what it showed: somebody else may sign in next. */
  stop() {
    this.leave();
    this.snapshot([]);
    this.say(null);
  }

  /** Show a note in place of the content, with a button where there is something to do. */
  say(text, action = null) {
    const parts = text === null ? [] : [el("p", {}, text)];
    if (action) {
      parts.push(el("button", { type: "button", onclick: action.act }, action.label));
    }
    this.#note.replaceChildren(...parts);
    this.#note.hidden = text === null;
  }

  #show(state, status = null) {
    this.#status = status;
    this.#light.show(state);
    this.#explain();
    this.#onState();
  }

  #explain() {
    const busy = this.content.hasAttribute("aria-busy");
    if (this.state === "idle") return;
    if (this.state === "refused") {
      this.snapshot([]);
      this.say(REFUSED[this.#status] ?? "This cannot be shown.", {
        label: "Try again",
        act: () => this.#follow.again(),
      });
    } else if (this.size > 0) this.say(null);
    else if (!busy) this.say(this.emptyText);
    else this.say(this.state === "reconnecting" ? "The server cannot be reached." : "Loading…");
  }
}
