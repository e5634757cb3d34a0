/**
 * All feeds of one browser, each followed once, however many tabs show it.
 *
 * A browser opens at most six HTTP/1.1 connections to a server, over all its tabs, and each stream
 * keeps one. So the tabs share one hub (in worker.js), and the hub streams at most five feeds;
 * one connection stays free for requests. Further feeds are polled. Feeds of the tabs
 * that are looked at come first.
 *
 * Messages from a tab: {follow: key, spec}, {unfollow: key}, {again: key}, {visible: bool},
 * {session: "in" | "out"}, {gone: true}, {lock: name}.
 * Messages to a tab: {key, call, args} for what the Feed tells, and {session}, also "ended"
 * when the server no longer knows the session.
 */

import { Feed } from "./feed.js";

const STREAMS = 5;
// Items kept per feed for a tab that joins later: as many as the longest list in a tab shows.
const KEPT = 300;

export class Hub {
  #tabs = new Set(); // {port, visible, shown, keys}
  #follows = new Map(); // key -> Follow
  #clock = 0;
  #suspends;

  /** `suspends`: rest while no tab is visible; right when the hub lives in the tab itself. */
  constructor({ suspends = false } = {}) {
    this.#suspends = suspends;
    globalThis.addEventListener("online", () => {
      for (const follow of this.#follows.values()) follow.feed.again();
    });
  }

  attach(port) {
    const tab = { port, visible: true, shown: ++this.#clock };
    this.#tabs.add(tab);
    port.onmessage = ({ data }) => this.#receive(tab, data);
  }

  #receive(tab, message) {
    if (message.follow) this.#follow(tab, message.follow, message.spec);
    else if (message.unfollow) this.#unfollow(tab, message.unfollow);
    else if (message.again) this.#follows.get(message.again)?.feed.start();
    else if (message.session) this.#renew(message.session);
    else if (message.gone) this.#leave(tab);
    else if (message.lock) this.#leaveAfter(tab, message.lock);
    else if ("visible" in message) {
      tab.visible = message.visible;
      if (tab.visible) tab.shown = ++this.#clock;
    }
    this.#arrange();
  }

  #follow(tab, key, spec) {
    let follow = this.#follows.get(key);
    if (!follow) {
      follow = new Follow(key, spec, (status) => {
        if (status === 401) this.#renew("ended");
      });
      this.#follows.set(key, follow);
    }
    follow.join(tab);
  }

  #unfollow(tab, key) {
    const follow = this.#follows.get(key);
    follow?.tabs.delete(tab);
    if (follow?.tabs.size === 0) {
      follow.feed.stop();
      this.#follows.delete(key);
    }
  }

  #leave(tab) {
    this.#tabs.delete(tab);
    for (const key of [...this.#follows.keys()]) this.#unfollow(tab, key);
  }

  /** A tab that crashes says no farewell, but its lock comes free. */
  #leaveAfter(tab, name) {
    navigator.locks.request(name, () => {
      this.#leave(tab);
      this.#arrange();
    });
  }

  /** Somebody signed in or out: forget what the last user could see, and tell all tabs. */
  #renew(session) {
    for (const follow of this.#follows.values()) follow.feed.stop();
    this.#follows.clear();
    for (const tab of this.#tabs) tab.port.postMessage({ session });
  }

  /** Give the streams to the feeds that are looked at, those shown last first. */
  #arrange() {
    const ranked = [...this.#follows.values()].sort((one, other) => other.rank - one.rank);
    ranked.forEach((follow, place) => {
      if (this.#suspends && follow.rank <= 0) follow.feed.stop();
      else if (!follow.refused) {
        follow.feed.streaming = place < STREAMS;
        follow.feed.start();
      }
    });
  }
}

/** One feed and the tabs that show it. It is also the feed's listener. */
class Follow {
  tabs = new Set();
  refused = false;
  #key;
  #items = null; // id -> item; null until the first snapshot
  #state = ["connecting", null];
  #onRefused;

  constructor(key, spec, onRefused) {
    this.#key = key;
    this.#onRefused = onRefused;
    this.feed = new Feed(spec, this);
  }

  /** Above 0 while a visible tab shows it; the higher, the more recently. */
  get rank() {
    let rank = -Infinity;
    for (const tab of this.tabs) rank = Math.max(rank, tab.visible ? tab.shown : -1 / tab.shown);
    return rank;
  }

  join(tab) {
    this.tabs.add(tab);
    this.#post(tab, "state", this.#state);
    if (this.#items) this.#post(tab, "snapshot", [[...this.#items.values()]]);
  }

  snapshot(items) {
    this.#items = new Map(items.map((item) => [item.id, item]));
    this.#tell("snapshot", [items]);
  }

  item(item) {
    this.#items ??= new Map();
    this.#items.set(item.id, item);
    if (this.#items.size > KEPT) this.#items.delete(this.#items.keys().next().value);
    this.#tell("item", [item]);
  }

  removed(key) {
    this.#items?.delete(key.id);
    this.#tell("removed", [key]);
  }

  state(state, status) {
    this.#state = [state, status];
    this.refused = state === "refused";
    this.#tell("state", this.#state);
    if (!this.refused) return;
    this.#items = null;
    this.#onRefused(status);
  }

  #tell(call, args) {
    for (const tab of this.tabs) this.#post(tab, call, args);
  }

  #post(tab, call, args) {
    tab.port.postMessage({ key: this.#key, call, args });
  }
}
