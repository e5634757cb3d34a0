/** The one loop that connects a feed: it streams, polls where nothing streams, and backs off. */

import { openEventSource, openFetch } from "./streams.js";
import { backOff, pause, slot, turn } from "./waiting.js";

// Milliseconds. A stream's first word: far more than a slow network needs; less once polling works.
const FIRST_WORD = { before: 10_000, polling: 4_000 };
// Polling lasts longer after each stream that brought nothing, up to this.
const POLLS = { first: 500, most: 60_000 };
// Seconds of a long-poll: below the 30 s after which common proxies give up.
const WAIT = 25;
const ANSWERS_WITHIN = 10_000;
const BETWEEN_POLLS = 3_000;
const HELD = 900; // a poll that took longer was held back
const GLIMPSE = { time: 700, pause: 400 };
// A timer that is this late means that the machine slept; hidden tabs are late by a minute at most.
const SLEPT = 120_000;
// Answers that asking again does not change.
const REFUSALS = new Set([400, 401, 403, 404, 405, 406, 410, 413, 422]);

/**
 * Follows one feed. `emit` is called with what happens:
 * {name, data, id, from} for an event of a stream, `from` being the position before it;
 * {page, from} for a page of the REST half; {state, status} for a new state.
 */
export class Connection {
  position = null;
  state = "connecting";
  status = null;
  #spec;
  #emit;
  #rest; // null where the feed turned out to have no REST half
  #turn = null; // aborts what runs; null while stopped
  #stream = null;
  #beats = 0; // milliseconds between heartbeats, once the server has sent one

  /** `spec`: {url, names, event, address, rest, ask, fetches, EventSource, credentials}. */
  constructor(spec, emit) {
    this.#spec = spec;
    this.#emit = emit;
  }

  /** Begins, or drops the connection and begins anew; always at the position, and only one loop. */
  start(wait = 0) {
    this.stop();
    this.#rest = this.#spec.rest;
    this.#turn = new AbortController();
    this.#run(this.#turn.signal, wait);
  }

  stop() {
    this.#turn?.abort();
    this.#turn = null;
  }

  /** Ends a stream that should have said something by now; `late` is how late the timer was. */
  check(late) {
    if (!this.#stream || this.state !== "live") return;
    const missed = this.#beats && Date.now() - this.#stream.heard > 3 * this.#beats + 1_000;
    if (!missed && late < SLEPT) return;
    this.#tell("stale");
    this.#stream.end();
  }

  async #run(signal, wait) {
    if (wait) this.#tell("reconnecting");
    await pause(wait, signal);
    let misses = 0; // streams in a row that brought nothing
    while (!signal.aborted) {
      const free = await slot(this.#spec.url);
      // What has no REST half is looked at now and then, while no connection is free.
      const glimpse = !free && !this.#rest;
      if (glimpse) this.#tell("polling");
      const done = glimpse ? await turn() : null;
      let end = (free || glimpse) && !signal.aborted ? await this.#streams(signal, glimpse) : {};
      free?.();
      done?.();
      if (signal.aborted) return;
      const { lived } = end;
      if (glimpse && lived && !end.status) {
        await pause(GLIMPSE.pause, signal);
        continue;
      }
      if (free) misses = lived ? 0 : Math.min(misses + 1, 8);
      // EventSource hides why it failed; the answer to a plain request says it.
      if (end.status === undefined) end = await this.#ask(signal, 0);
      if (end.status === 200 && this.#rest && (misses || !free)) {
        end = await this.#polls(signal, free && Math.min(POLLS.most, POLLS.first * 2 ** misses));
      }
      if (signal.aborted) return;
      if (end.status === 200 && (this.#rest || lived)) continue;
      if (end.status === 204) return this.#stopAt("closed", 204);
      if (REFUSALS.has(end.status)) return this.#stopAt("refused", end.status);
      // A line that just died is shown as stale until a new one has failed too.
      if (this.state !== "stale" || !lived) this.#tell("reconnecting");
      // What the server asks for, and some more: it may ask for nothing each time.
      const more = backOff(misses);
      await pause(end.wait === undefined ? more : end.wait + more / 10, signal);
    }
  }

  /** Streams until that ends: {lived, status, wait}, without a status where it is not known. */
  async #streams(signal, glimpse) {
    const { state, position } = this;
    if (state !== "polling" && state !== "stale") {
      const first = position === null && state !== "reconnecting";
      this.#tell(first ? "connecting" : "reconnecting");
    }
    const open = this.#spec.fetches ? openFetch : openEventSource;
    const end = await new Promise((resolve) => {
      this.#stream = open(this.#spec, position, {
        within: state === "polling" ? FIRST_WORD.polling : FIRST_WORD.before,
        // A server that sends heartbeats begins with one, and a feed with a snapshot. Until then
        // a stream that is open may be one that a proxy holds back.
        begins: this.#beats > 0 || (this.#rest && position === null),
        word: () => {
          if (!glimpse) return this.#tell("live");
          setTimeout(this.#stream?.end, GLIMPSE.time, { status: 0 });
        },
        lost: () => this.state !== "polling" && this.#tell("reconnecting"),
        event: (name, data, id) => this.#event(name, data, id),
        resolve,
      });
      signal.addEventListener("abort", this.#stream.end);
    });
    signal.removeEventListener("abort", this.#stream.end);
    this.#stream = null;
    return end;
  }

  #event(name, data, id) {
    if (name === "heartbeat") {
      const { interval, event, envelope } = parsed(data) ?? {};
      if (interval > 0) this.#beats = interval * 1_000;
      if (event) this.#spec.event ??= event;
      if (envelope) this.#spec.envelope ??= envelope;
    }
    this.#emit({ name, data, id, from: id ? this.position : undefined });
    const status = name === "error" && parsed(data)?.status;
    // Other faults pass: the server ends the stream and says when to come back.
    if (REFUSALS.has(status)) this.#stream?.end({ status });
  }

  /** Long-polls for `time` milliseconds, or asks once and waits where no connection is free. */
  async #polls(signal, time) {
    this.#tell("polling");
    if (!time) {
      await pause(BETWEEN_POLLS, signal);
      return { status: 200 };
    }
    const until = Date.now() + time;
    let answer = { status: 200 };
    while (answer.status === 200 && !signal.aborted && Date.now() < until) {
      const { position } = this;
      const began = Date.now();
      answer = await this.#ask(signal, Math.min(WAIT, Math.ceil((until - began) / 1_000)));
      // Not every server holds a poll back.
      const held = Date.now() - began > HELD || this.position !== position;
      if (!held) await pause(BETWEEN_POLLS, signal);
    }
    return answer;
  }

  /** Asks REST for what came after the position: the answer's {status, wait}. */
  async #ask(signal, wait) {
    const rest = this.#rest;
    const stopping = new AbortController();
    const stop = () => stopping.abort();
    const timer = setTimeout(stop, wait * 1_000 + ANSWERS_WITHIN);
    signal.addEventListener("abort", stop);
    const from = this.position;
    try {
      const address = rest ? rest(from, wait) : this.#spec.address(from);
      const response = await this.#spec.ask(address, !rest, stopping.signal, from);
      if (rest && [404, 405, 406].includes(response.status)) {
        // There may be no REST half; then the stream itself is asked.
        this.#rest = null;
        return await this.#ask(signal, 0);
      }
      if (rest && response.status === 410) {
        const { reason = "expired" } = parsed(await response.text()) ?? {};
        this.#emit({ name: "reset", data: JSON.stringify({ reason }), id: "" });
        return await this.#ask(signal, 0);
      }
      if (rest && response.status === 200) {
        const page = this.#spec.opened(await response.json());
        if (signal.aborted) return {};
        if (itemsOf(page)) this.#emit({ page, from });
        else this.#rest = null;
      }
      const after = parseFloat(response.headers.get("Retry-After"));
      return { status: response.status, wait: after >= 0 ? after * 1_000 : undefined };
    } catch {
      return { status: 0 };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      stop(); // a stream that was only asked for its status
    }
  }

  #stopAt(state, status) {
    this.stop();
    this.#tell(state, status);
  }

  #tell(state, status = null) {
    if (state === this.state && status === this.status) return;
    this.state = state;
    this.status = status;
    this.#emit({ state, status });
  }
}

/** The items of a page: its only list. */
export function itemsOf(page) {
  return Object.values(page ?? {}).find(Array.isArray);
}

/** A value of JSON, or undefined. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
