/** One feed as a page follows it: callbacks, an iterator, a live Map or a bounded list. */

import { Connection, itemsOf, parsed } from "./connection.js";
import { checked, headersOf, report } from "./options.js";
import { Tabs } from "./tabs.js";
import { View } from "./view.js";
import { locks } from "./waiting.js";

const TICK = 5_000;
const SEEN = 1_000; // positions that are remembered, to drop what comes twice
const KEPT = 1_000; // items that a tab which joins is shown
const QUEUE = 1_000; // changes that wait for an iterator; then the connection rests
const FRAME = 16; // milliseconds that changes are collected for `onChange`
const CALLBACKS = ["onSnapshot", "onItem", "onRemoved", "onReset", "onEvent"];

export class Follow {
  #options;
  #spec;
  #list;
  #connection;
  #tabs = null;
  #view;
  #state = "connecting";
  #status = null;
  #seen = new Set();
  #queues = new Set(); // of iterators
  #first = null; // the queue of the first iterator, which misses nothing
  #resting = false;
  #closed = new AbortController();
  #flush = null;
  #asking = null; // the sign-in that is asked for

  constructor(url, options, { keep, list } = {}) {
    this.#options = options;
    const callbacks = CALLBACKS.some((name) => options[name]);
    const plain = !options.headers && !options.method && !options.body && !options.fetch;
    const alone = options.after || options.resume || !plain || !(callbacks || keep);
    const tabs = options.tabs ?? !alone;
    const spec = (this.#spec = specOf(url, options, !plain));
    const key = typeof options.key === "function" ? (item) => this.#call("key", item) : options.key;
    this.#view = keep || tabs ? new View(key ?? "id", keep ?? KEPT) : null;
    this.#list = list;
    this.#connection = new Connection(spec, (message) =>
      this.#tabs ? this.#tabs.lead(message) : this.#take(message),
    );
    if (tabs && locks) {
      const name = `${spec.address(null)} ${tabs === true ? "" : tabs}`;
      this.#tabs = new Tabs(name, this.#connection, {
        take: (message) => this.#take(message),
        knows: (id) => this.#seen.has(id),
        shown: () => ({ event: spec.event, envelope: spec.envelope, items: [...this.#view.items.values()] }),
      });
    }
    if (!callbacks && !keep) this.#queues.add((this.#first = { changes: [] }));
    this.#watch(tabs && !this.#tabs);
    this.#begin();
  }

  get state() {
    return this.#state;
  }

  /** The HTTP status of a refusal, else null. */
  get status() {
    return this.#status;
  }

  /** Where the feed was followed to; null before the first snapshot. */
  get position() {
    return this.#connection.position;
  }

  /** What `keyed` and `list` hold. */
  get items() {
    const items = this.#view?.items ?? new Map();
    return this.#list ? [...items.values()] : items;
  }

  /** Drops the connection and connects again after `wait` milliseconds, at the position. */
  reconnect({ wait = 0, anew = false } = {}) {
    if (this.#closed.signal.aborted) return;
    if (this.#tabs) return this.#tabs.again(wait, anew);
    if (anew) this.#connection.position = null;
    this.#connection.start(wait);
  }

  close() {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#stop();
    clearTimeout(this.#flush);
    this.#show("closed");
  }

  async *[Symbol.asyncIterator]() {
    const queue = this.#first ?? { changes: [] };
    this.#first = null;
    this.#queues.add(queue);
    try {
      for (;;) {
        if (queue.changes.length) {
          yield queue.changes.shift();
        } else if (this.#state === "closed") return;
        else if (this.#state === "refused" && !this.#asking) throw this.#refusal();
        else if (this.#resting) this.#wake();
        else await new Promise((resolve) => (queue.wake = resolve));
      }
    } finally {
      this.close();
    }
  }

  #refusal() {
    const error = new Error(`The server refused the feed with ${this.#status}.`);
    return Object.assign(error, { status: this.#status });
  }

  async #begin() {
    const { after = null, resume } = this.#options;
    let kept = null;
    try {
      if (resume) kept = await stored(resume).get();
    } catch (error) {
      report(error);
    }
    this.#connection.position = kept ?? after;
    if (!this.#closed.signal.aborted) this.#wake();
  }

  #wake() {
    this.#resting = false;
    (this.#tabs ?? this.#connection).start();
  }

  #stop() {
    (this.#tabs ?? this.#connection).stop();
  }

  /** Notices sleep, a network that is back, and, where tabs cannot share, a tab that is hidden. */
  #watch(hides) {
    const { signal } = this.#closed;
    let last = Date.now();
    const tick = () => {
      const late = Date.now() - last - TICK;
      last = Date.now();
      if (this.#resting) return;
      this.#connection.check(late);
      this.#tabs?.check();
    };
    const timer = setInterval(tick, TICK);
    timer.unref?.();
    signal.addEventListener("abort", () => clearInterval(timer));
    const again = () => {
      if (!this.#resting && (!this.#tabs || this.#tabs.leads)) this.#connection.start();
    };
    const { document } = globalThis;
    globalThis.addEventListener?.("online", again, { signal });
    document?.addEventListener?.("visibilitychange", () => {
      if (!hides) return tick();
      if (document.hidden) this.#stop();
      else this.#wake();
    }, { signal });
  }

  /** What the connection, or the tab that leads, has received. */
  #take(message) {
    if (this.#closed.signal.aborted) return;
    const { state, status, name, data, id, page, items } = message;
    if (state) return this.#show(state, status);
    if (message.event) this.#spec.event ??= message.event;
    if (message.envelope) this.#spec.envelope ??= message.envelope;
    if (items) return this.#snapshot(items, {}, id);
    if (page) return this.#page(message);
    if (!name) return this.#moved(id);
    this.#call("onFrame", { name, data, id });
    const value = this.#spec.opened(parsed(data) ?? data);
    if (name === "heartbeat") {
      this.#spec.event ??= value.event;
      this.#spec.envelope ??= value.envelope;
    } else if (name === "snapshot") this.#snapshot(itemsOf(value) ?? [], value, id);
    else if (name === "reset") this.#reset(value.reason);
    else if (!id || this.#moved(id)) this.#event(name, value, id);
  }

  #event(name, value, id) {
    const item = this.#options.event ?? this.#spec.event ?? "message";
    if (name === item) this.#item(value, id);
    else if (name === `${item}_removed`) this.#removed(value, id);
    else this.#change("onEvent", { type: "event", name, data: value, id }, name, value, { id });
    this.#store();
  }

  #item(item, id) {
    this.#view?.put(item);
    this.#change("onItem", { type: "item", item, id }, item, { id });
  }

  #removed(key, id) {
    this.#view?.remove(key);
    this.#change("onRemoved", { type: "removed", key, id }, key, { id });
  }

  #snapshot(items, page, id) {
    this.#seen.clear();
    this.#connection.position = null;
    this.#moved(id);
    this.#view?.replace(items);
    this.#change("onSnapshot", { type: "snapshot", items, page, id }, items, page);
    this.#store();
  }

  #page({ page, from }) {
    if (from === null) return this.#snapshot(itemsOf(page), page, page.position);
    if (!this.#moved(page.position)) return;
    // What left comes before what came: an item may have gone and be back.
    for (const key of page.removed ?? []) this.#removed(key);
    for (const item of itemsOf({ ...page, removed: null })) this.#item(item);
    this.#store();
  }

  #reset(reason) {
    this.#connection.position = null; // a snapshot follows
    this.#change("onReset", { type: "reset", reason }, reason);
  }

  /** Goes on to a position; false for one that was there already. */
  #moved(id) {
    // Another kind of server may count from 1 again; the positions of a feed never come back.
    if (this.#spec.rest && this.#seen.has(id)) return false;
    this.#seen.add(id);
    if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
    // Kept before it is shown: what a callback throws must not repeat the item.
    this.#connection.position = id;
    return true;
  }

  #change(callback, change, ...given) {
    this.#call(callback, ...given);
    for (const queue of this.#queues) {
      queue.changes.push(change);
      queue.wake?.();
      if (queue.changes.length >= QUEUE && !this.#resting) {
        this.#resting = true;
        this.#stop();
      }
    }
    if (this.#options.onChange) {
      this.#flush ??= setTimeout(() => {
        this.#flush = null;
        this.#call("onChange", this.items, this);
      }, FRAME);
    }
  }

  #show(state, status = null) {
    this.#state = state;
    this.#status = status;
    this.#call("onState", state, { status });
    if (state === "refused" && (status === 401 || status === 403)) this.#signIn(status);
    if (state === "refused" || state === "closed") this.#alert();
  }

  async #signIn(status) {
    const { onSignIn } = this.#options;
    if (!onSignIn || this.#asking) return;
    this.#asking = Promise.resolve(status).then(onSignIn);
    const answer = await this.#asking.catch(report);
    this.#asking = null;
    // Another tab may have signed in meanwhile, and the feed gone on.
    if (this.#state !== "refused") return;
    if (answer) this.reconnect({ anew: answer === "anew" });
    else this.#alert();
  }

  #alert() {
    for (const queue of this.#queues) queue.wake?.();
  }

  #call(name, ...given) {
    try {
      return this.#options[name]?.(...given);
    } catch (error) {
      report(error);
    }
  }

  #store() {
    const { resume } = this.#options;
    try {
      if (resume) stored(resume).set(this.position);
    } catch (error) {
      report(error);
    }
  }
}

/** A feed whose items are a live Map by key: `items`. */
export function keyed(url, options) {
  return new Follow(url, checked("keyed", options), { keep: Infinity });
}

/** An append-only feed whose newest items are an array: `items`, at most `keep` of them. */
export function list(url, options) {
  const { keep = 1_000, ...others } = checked("list", options);
  if (!(keep >= 1)) throw new RangeError(`keep is ${keep}, and must be 1 or more`);
  return new Follow(url, others, { keep, list: true });
}

/** Follows a feed, given the address of either half; `rest: false` for any other event stream. */
export function follow(url, options) {
  return new Follow(url, checked("follow", options));
}

/** How a feed is asked: the addresses of its halves, and the names of its events. */
function specOf(url, options, fetches) {
  const { credentials = "same-origin", method, body, EventSource = globalThis.EventSource } = options;
  const given = addressed(url);
  const sent = typeof options.headers === "function" ? undefined : options.headers;
  // TypeError for what `fetch` would refuse at each connection.
  new Request(fetches ? given : "http://localhost/", { headers: sent, method, credentials, body: body && "" });
  const [path, stream] = given.pathname.split(/(\/stream)$/);
  const isFeed = options.rest !== false;
  const half = (pathname, parameters) => {
    const address = new URL(given);
    address.pathname = pathname;
    for (const [name, value] of Object.entries(parameters)) {
      if (value) address.searchParams.set(name, value);
    }
    return address.href;
  };
  const spec = {
    url: given,
    fetches: fetches || !EventSource, // Node has fetch alone
    credentials,
    event: options.event,
    envelope: options.envelope,
    /** What is in the envelope; errors and resets have none. */
    opened: (body) => (spec.envelope && body?.[spec.envelope]) || body,
    EventSource,
    names() {
      const item = spec.event ?? "message";
      return [item, `${item}_removed`, "snapshot", "reset", "heartbeat", ...(options.events ?? [])];
    },
    address: (position) =>
      half(isFeed ? `${path}/stream` : given.pathname, {
        heartbeat: options.heartbeat === false ? null : "event",
        [isFeed ? "after" : "lastEventId"]: position,
      }),
    rest: isFeed ? (position, wait) => half(path, { after: position, wait: position && wait }) : null,
    async ask(address, isStream, signal, position) {
      const headers = await headersOf(options);
      headers.set("Accept", isStream ? "text/event-stream" : "application/json");
      if (isStream && position && spec.fetches) headers.set("Last-Event-ID", inUtf8(position));
      const how = isStream && fetches ? { method, body } : {};
      const ask = options.fetch ?? globalThis.fetch;
      return ask(address, { ...how, headers, credentials, cache: "no-store", signal });
    },
  };
  return spec;
}

/** A header's characters are bytes; an id is sent in UTF-8, as EventSource does. */
function inUtf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** A relative address becomes a whole one; TypeError for what is none. */
export function addressed(url) {
  const base = globalThis.document?.baseURI ?? globalThis.location?.href; // Node has none, a worker the latter
  try {
    const given = new URL(url, base);
    // `undefined` would be the page "undefined" beside this one.
    if (url && /^(string|object)$/.test(typeof url) && /^https?:$/.test(given.protocol)) return given;
  } catch {
    // As it is said below.
  }
  const example = `${base ? "" : "http://localhost:8000"}/api/logs`;
  throw new TypeError(`${url} is no address of a feed, such as "${example}"`);
}

/** Where a position is kept: the name of an entry of sessionStorage, or {get, set}. */
function stored(resume) {
  if (typeof resume !== "string") return resume;
  return {
    get: () => sessionStorage.getItem(resume),
    set: (position) => position && sessionStorage.setItem(resume, position),
  };
}
