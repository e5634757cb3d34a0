/** A tab's end of the hub: shared with the other tabs, or its own where workers are missing. */

import { address } from "../api.js";
import { Hub } from "./hub.js";

export class Link {
  #port;
  #follows = new Map(); // key -> {spec, listener}
  #onSession;

  /** `onSession("in" | "out" | "ended")` is called when this or another tab signed in or out. */
  constructor(onSession) {
    this.#onSession = onSession;
    this.#open();
    document.addEventListener("visibilitychange", () => this.#tellVisible());
    addEventListener("pagehide", () => this.#post({ gone: true }));
    // Back from the browser's page cache, where the hub took this tab for gone.
    addEventListener("pageshow", (event) => event.persisted && location.reload());
  }

  /** Follow a feed; `spec` and `listener` as for Feed. Returns {again, leave}. */
  follow(spec, listener) {
    const key = address(spec.path, spec.params);
    this.#follows.set(key, { spec, listener });
    this.#post({ follow: key, spec });
    return {
      again: () => this.#post({ again: key }),
      leave: () => {
        this.#follows.delete(key);
        this.#post({ unfollow: key });
      },
    };
  }

  /** Tell all tabs, this one included, that the user signed "in" or "out". */
  session(change) {
    this.#post({ session: change });
  }

  #open() {
    if (!("SharedWorker" in globalThis)) return this.#openOwn();
    // Built at import.meta.url so that the page may be served under any prefix.
    const worker = new SharedWorker(new URL("./worker.js", import.meta.url), {
      type: "module",
      name: "headwater-live",
    });
    worker.addEventListener("error", () => this.#openOwn());
    this.#connect(worker.port);
    const name = `headwater-tab-${Math.random()}`;
    // Held until the tab ends, however it ends. Browsers have locks on https and localhost only.
    // The hub asks for it only once it is held here: it would take it, and the tab for gone.
    navigator.locks?.request(name, () => {
      this.#post({ lock: name });
      return new Promise(() => {});
    });
  }

  #openOwn() {
    const { port1, port2 } = new MessageChannel();
    new Hub({ suspends: true }).attach(port1);
    this.#connect(port2);
    for (const [key, { spec }] of this.#follows) this.#post({ follow: key, spec });
  }

  #connect(port) {
    this.#port = port;
    port.onmessage = ({ data }) => {
      if (data.session) this.#onSession(data.session);
      else this.#follows.get(data.key)?.listener[data.call](...data.args);
    };
    this.#tellVisible();
  }

  #tellVisible() {
    this.#post({ visible: document.visibilityState === "visible" });
  }

  #post(message) {
    this.#port.postMessage(message);
  }
}
