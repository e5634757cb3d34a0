/**
 * One connection for all tabs: the tab that holds a Web Lock leads, and tells the others.
 *
 * A tab that ends, however it ends, frees its lock, and the next one goes on at its own position.
 */

import { locks } from "./waiting.js";

// Milliseconds. Followers ask a leader that was silent for so long whether it still runs, and
// replace it when it does not answer: a phone freezes tabs together with their locks.
const ASK = 20_000;
const REPLACE = 30_000;

export class Tabs {
  leads = false;
  #key;
  #connection;
  #follow;
  #channel = null;
  #name = `${Math.random()}`;
  #synced = false; // it was shown what the feed holds
  #heard = 0;
  #asked = false; // the leader was asked whether it still runs
  #free = null; // gives the lock back
  #waiting = null; // aborts the request for the lock

  /**
   * `follow`: {take(message), knows(id), shown()}: what a message is given to, whether a position
   * was seen, and what a tab that joins is shown.
   */
  constructor(key, connection, follow) {
    this.#key = `headwater:${key}`;
    this.#connection = connection;
    this.#follow = follow;
  }

  start() {
    this.#channel = new BroadcastChannel(this.#key);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#join();
    this.#queue();
  }

  stop() {
    this.#connection.stop();
    this.#waiting?.abort();
    this.#free?.();
    this.#channel?.close();
    this.#channel = this.#free = null;
    this.leads = this.#synced = false;
  }

  /** Connects again, in whichever tab leads. */
  again(wait, anew) {
    if (!this.leads) return this.#post({ again: wait, anew });
    if (anew) this.#connection.position = null;
    this.#connection.start(wait);
  }

  /** What the leader's connection emits. */
  lead(message) {
    this.#follow.take(message);
    this.#post(message);
  }

  check() {
    if (this.leads || globalThis.document?.hidden) return;
    const silent = Date.now() - this.#heard;
    if (silent > REPLACE && this.#asked) this.#queue({ steal: true });
    else if (silent > ASK) {
      this.#asked = true;
      this.#post({ ask: this.#name });
    }
  }

  #join() {
    this.#synced = this.#asked = false;
    this.#heard = Date.now();
    this.#post({ hello: this.#name });
  }

  #queue(how) {
    this.#waiting?.abort();
    const waiting = (this.#waiting = new AbortController());
    const lead = () =>
      new Promise((free) => {
        if (waiting.signal.aborted || !this.#channel) return free();
        this.leads = true;
        this.#free = free;
        this.#connection.start();
      });
    locks.request(this.#key, how ?? { signal: waiting.signal }, lead).catch(() => {
      // Another tab took the lock while this one was frozen; or the request itself was given up.
      if (this.#waiting !== waiting || !this.leads || !this.#channel) return;
      this.leads = false;
      this.#connection.stop();
      this.#join();
      this.#queue();
    });
  }

  #hear(message) {
    if (this.leads) {
      const { hello, ask } = message;
      if ("again" in message) this.again(message.again, message.anew);
      else if (ask) this.#post({ to: ask });
      else if (hello) {
        const { position, state, status } = this.#connection;
        const shown = position === null ? {} : this.#follow.shown();
        this.#post({ to: hello, ...shown, id: position, state, status });
      }
      return;
    }
    if (message.hello || message.ask || "again" in message) return;
    this.#heard = Date.now();
    this.#asked = false;
    if (message.to && message.to !== this.#name) return;
    if (message.state) this.#follow.take({ state: message.state, status: message.status });
    if (message.items && !this.#synced) {
      const { items, id, event, envelope } = message;
      this.#begin({ items, id, event, envelope });
    } else if (message.name || message.page) this.#next(message);
  }

  #begin(message) {
    this.#synced = true;
    this.#follow.take(message);
  }

  /** An event or page of the leader: taken when it goes on from where this tab is. */
  #next(message) {
    const { name, page, from } = message;
    if (name === "heartbeat") this.#follow.take(message); // it says what events are called
    else if (name === "snapshot" || name === "reset" || (page && from === null)) this.#begin(message);
    else if (!this.#synced) return;
    else if (from === undefined || from === this.#connection.position || this.#follow.knows(message.id ?? page.position)) {
      this.#follow.take(message);
    } else this.#join(); // it missed something: it is shown everything anew
  }

  #post(message) {
    this.#channel?.postMessage(message);
  }
}
