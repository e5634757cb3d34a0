/**
 * One feed of a pair, followed for good: streamed where possible, polled where not.
 *
 * The position is kept here, not only in the browser's EventSource: that one sends
 * `Last-Event-ID` on its own reconnects alone, and a new EventSource starts from nothing. So each
 * new one, and each poll, goes on with `after=<position>`, and no item is lost or shown twice.
 */

import { address, request } from "../api.js";

// A proxy that buffers never lets a stream open; 10 s is far more than a slow network needs.
const OPENS_WITHIN = 10_000;
// The browser's own reconnects that may fail in a row before polling is tried.
const FAILURES = 3;
// How long polling goes on before streaming is tried again.
const STREAMS_AGAIN = 60_000;
// A long-poll's wait in seconds: below the 30 s after which common proxies give up.
const WAIT = 25;
// Milliseconds between polls of a feed that has no connection of its own to wait on.
const BETWEEN_POLLS = 3_000;
const BACK_OFF = { first: 1_000, most: 10_000 };
// The right to the feed is gone: asking again would not help.
const REFUSALS = new Set([401, 403, 404, 422]);

/**
 * What a feed tells its listener:
 * `snapshot(items)`, `item(item)`, `removed(key)`, and `state(name, status)` with one of
 * connecting, live, reconnecting, polling, refused. `status` is the HTTP status of a refusal.
 */
export class Feed {
  #spec;
  #listener;
  #position = null;
  #state = null;
  #streaming;
  #turn = null; // aborts what runs now; null while stopped

  /** `spec`: {path, event, collection, params}, as the feed was declared on the server. */
  constructor(spec, listener, { streaming = true } = {}) {
    this.#spec = spec;
    this.#listener = listener;
    this.#streaming = streaming;
  }

  start() {
    if (this.#turn) return;
    this.#tell("connecting");
    this.#begin();
  }

  stop() {
    this.#turn?.abort();
    this.#turn = null;
  }

  /** Stream, or only poll now and then (when all connections are taken). */
  set streaming(wanted) {
    if (wanted === this.#streaming) return;
    this.#streaming = wanted;
    this.again();
  }

  /** Drop the connection and go on at once with a new one, from the same position. */
  again() {
    if (!this.#turn) return;
    this.#turn.abort();
    this.#begin();
  }

  #begin() {
    this.#turn = new AbortController();
    this.#run(this.#turn.signal);
  }

  async #run(signal) {
    let failures = 0;
    while (!signal.aborted) {
      if (this.#streaming && (await this.#stream(signal))) failures = 0;
      if (signal.aborted) return;
      const wait = await this.#poll(signal);
      if (wait === null) failures = 0;
      else await pause(wait || backOff(failures++), signal);
    }
  }

  /** Stream until that no longer works. Resolves to whether it ever did. */
  #stream(signal) {
    return new Promise((resolve) => {
      const source = new EventSource(this.#address("/stream"));
      let opened = false;
      let failures = 0;
      const end = () => {
        clearTimeout(late);
        source.close();
        signal.removeEventListener("abort", end);
        resolve(opened);
      };
      const late = setTimeout(end, OPENS_WITHIN);
      signal.addEventListener("abort", end);

      source.addEventListener("open", () => {
        clearTimeout(late);
        opened = true;
        failures = 0;
        this.#tell("live");
      });
      source.addEventListener("error", (event) => {
        // The server's own `event: error` carries data; the browser's does not.
        if (event instanceof MessageEvent) {
          const status = JSON.parse(event.data)?.status;
          if (REFUSALS.has(status)) this.#refuse(status);
          return;
        }
        // While polling works, a stream that cannot open is no news.
        if (opened || this.#state !== "polling") this.#tell("reconnecting");
        failures += 1;
        if (source.readyState === EventSource.CLOSED || failures >= FAILURES) end();
      });

      const on = (name, act) =>
        source.addEventListener(name, (event) => {
          // Kept before it is shown: what a listener throws must not repeat the item.
          if (event.lastEventId) this.#position = event.lastEventId;
          act(JSON.parse(event.data));
        });
      const { event, collection } = this.#spec;
      on("snapshot", (page) => this.#listener.snapshot(page[collection]));
      on(event, (item) => this.#listener.item(item));
      on(`${event}_removed`, (key) => this.#listener.removed(key));
      on("reset", () => {
        this.#position = null; // a snapshot follows
      });
    });
  }

  /**
   * Poll until it is time to try streaming again: null then. When a poll fails: the milliseconds
   * to wait as the server asked, or 0 when it did not say.
   */
  async #poll(signal) {
    const until = Date.now() + STREAMS_AGAIN;
    let wait = 0; // the first answer comes at once, and says whether polling works at all
    while (!signal.aborted && !(this.#streaming && Date.now() >= until)) {
      let page;
      try {
        page = await request(this.#address("", { wait }), { signal });
      } catch (problem) {
        if (signal.aborted) return null;
        if (REFUSALS.has(problem.status)) this.#refuse(problem.status);
        else if (problem.status === 410) this.#position = null;
        else {
          this.#tell("reconnecting");
          return (problem.retryAfter ?? 0) * 1_000;
        }
        continue;
      }
      if (signal.aborted) return null;
      this.#tell("polling");
      this.#take(page);
      if (this.#streaming) wait = WAIT;
      else if (!page.has_more) await pause(BETWEEN_POLLS, signal);
    }
    return null;
  }

  #take(page) {
    const items = page[this.#spec.collection];
    const known = this.#position !== null;
    this.#position = page.position;
    if (!known) return this.#listener.snapshot(items);
    // What left comes before what came: an item may have gone and be back.
    for (const key of page.removed ?? []) this.#listener.removed(key);
    for (const item of items) this.#listener.item(item);
  }

  #refuse(status) {
    this.stop();
    this.#position = null; // what was shown is taken away, so a later try begins with a snapshot
    this.#tell("refused", status);
  }

  #address(half, more = {}) {
    const { path, params } = this.#spec;
    const after = this.#position;
    return address(path + half, after ? { ...params, ...more, after } : params);
  }

  #tell(state, status = null) {
    if (state === this.#state) return;
    this.#state = state;
    this.#listener.state(state, status);
  }
}

/** Milliseconds before another try: doubling, with jitter so that clients do not come together. */
function backOff(failures) {
  const most = Math.min(BACK_OFF.most, BACK_OFF.first * 2 ** failures);
  return most / 2 + (Math.random() * most) / 2;
}

/** Wait; ends early when `signal` aborts. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
