/** What the parts have in common: a feed, its light, its wire, and a note for empty states. */

import { address, request } from "../api.js";
import { clock, el } from "../dom.js";
import { follow } from "../headwater.js";
import { Light } from "../light.js";
import { Wire } from "../wire/wire.js";

const REFUSED = {
  403: "You have no right to see this. Someone may have changed your role.",
  404: "This no longer exists, or you may no longer see it.",
  422: "The server does not accept this choice.",
};
// Milliseconds for which a dropped connection stays away, so that there is something to catch up.
const AWAY = 3_000;
const SAYS_FOR = 15_000;

/** A part shows one feed. It gives `snapshot(items)`, `item(item)` and, if keyed, `removed(key)`. */
export class Part {
  wire = new Wire();
  address = null; // of the feed's REST half
  #feed = null;
  #light;
  #page;
  #note;
  #resumed;
  #collection;

  /**
   * `page`: {user(), onState(), sessionEnded(), wire(part, button)}: who is signed in, and what
   * is called when the state changes, when the session ended, and when the wire is asked for.
   */
  constructor(root, page) {
    this.root = root;
    this.title = root.querySelector("h2").textContent;
    this.content = this.find("[data-content]");
    this.#page = page;
    this.#light = new Light(this.find(".light"));
    this.#note = this.find("[data-note]");
    this.#resumed = el("p", { class: "resumed", role: "status", hidden: true });
    root.append(this.#resumed);
    const button = el("button", { type: "button", "aria-expanded": "false" }, "Wire");
    button.setAttribute("aria-label", `Wire of ${this.title}`);
    button.addEventListener("click", () => page.wire(this, button));
    this.find(".controls").append(button);
  }

  get state() {
    return this.#light.state;
  }

  get position() {
    return this.#feed?.position ?? null;
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  /** Follow a feed in place of the last one. What is shown stays until the new one's snapshot. */
  follow({ path, event, collection, params }) {
    this.leave();
    this.content.setAttribute("aria-busy", "true");
    this.address = address(path, params);
    this.#collection = collection;
    this.wire = new Wire();
    this.#feed = follow(this.address, {
      event,
      tabs: this.#page.user().id,
      onSnapshot: (items, page) => {
        this.content.removeAttribute("aria-busy");
        this.wire.snapshot(items);
        this.snapshot(items, page);
        this.explain();
      },
      onItem: (item) => {
        this.wire.item(item);
        this.item(item);
        this.explain();
      },
      onRemoved: (key) => {
        this.removed(key);
        this.explain();
      },
      onFrame: (frame) => this.wire.note(frame),
      onState: (state) => state === "closed" || this.#show(state),
      onSignIn: (status) => {
        if (status === 401) this.#page.sessionEnded();
      },
    });
    this.#show("connecting");
  }

  leave() {
    this.#feed?.close();
    this.#feed = null;
    this.address = null;
    this.#show("idle");
  }

  /** Leave the feed and forget what it showed: somebody else may sign in next. */
  stop() {
    this.leave();
    this.snapshot([]);
    this.say(null);
    this.#resumed.hidden = true;
    this.wire = new Wire();
  }

  /** Cut the connection, as a network does that fails for some seconds. */
  drop() {
    this.#feed?.reconnect({ wait: AWAY });
  }

  /** Show a note in place of the content, with a button where there is something to do. */
  say(text, action = null) {
    const parts = text === null ? [] : [text].flat().map((one) => el("p", {}, one));
    if (action) {
      parts.push(el("button", { type: "button", onclick: action.act }, action.label));
    }
    this.#note.replaceChildren(...parts);
    this.#note.hidden = text === null;
  }

  #show(state) {
    this.wire.state(state);
    this.#light.show(state);
    this.explain();
    this.#page.onState();
    if (state === "live") this.#tellResumed();
  }

  /** After a lost connection: how much was caught up, checked against what the server has. */
  async #tellResumed() {
    const [wire, where] = [this.wire, this.address];
    const found = await wire
      .resumed(async () => (await request(where))[this.#collection])
      .catch(() => null);
    if (!found || this.wire !== wire) return;
    const words = `Resumed at ${clock(found.at)}: ${found.caught} caught up, ${found.lost} lost.`;
    this.#resumed.textContent = words;
    this.#resumed.hidden = false;
    setTimeout(() => {
      if (this.#resumed.textContent === words) this.#resumed.hidden = true;
    }, SAYS_FOR);
  }

  explain() {
    const busy = this.content.hasAttribute("aria-busy");
    if (this.state === "idle") return;
    if (this.state === "refused") {
      this.snapshot([]);
      this.say(REFUSED[this.#feed?.status] ?? "This cannot be shown.", {
        label: "Try again",
        act: () => this.#feed.reconnect({ anew: true }),
      });
    } else if (this.size > 0) this.say(null);
    else if (!busy) this.say(this.emptyText);
    else this.say(this.state === "reconnecting" ? "The server cannot be reached." : "Loading…");
  }
}
