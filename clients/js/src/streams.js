/** One open stream, by EventSource or by fetch, until it ends. */

import { Decoder } from "./decoder.js";

// The browser's own EventSource gets this long to come back, then a new one takes its place.
const RETURNS_WITHIN = 30_000;
// Its reconnects that may fail in a row.
const FAILURES = 3;

/** What both kinds share: time-outs, one end, and the time of the last word. */
class Stream {
  heard = Date.now();
  lived = false;
  #timer;
  #calls;
  #close;

  /** `calls`: {within, begins, word(), lost(), event(name, data, id), resolve(end)}. */
  constructor(calls, close) {
    this.#calls = calls;
    this.#close = close;
    this.limit(calls.within);
  }

  /** Ends it, with {status, wait} where they are known. Idempotent. */
  end = (known) => {
    clearTimeout(this.#timer);
    this.#close();
    const { status, wait } = known ?? {};
    this.#calls.resolve({ lived: this.lived, status, wait });
  };

  limit(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.end, milliseconds);
  }

  opened() {
    if (this.#calls.begins) this.limit(this.#calls.within);
    else this.word();
  }

  word() {
    clearTimeout(this.#timer);
    this.lived = true;
    this.heard = Date.now();
    this.#calls.word();
  }
}

export function openEventSource(spec, position, calls) {
  const withCredentials = spec.credentials === "include";
  const source = new spec.EventSource(spec.address(position), { withCredentials });
  const stream = new Stream(calls, () => source.close());
  const heard = new Set();
  let last = "";
  let failures = 0;
  const listen = () => {
    for (const name of spec.names()) {
      if (heard.has(name)) continue;
      heard.add(name);
      source.addEventListener(name, ({ data, lastEventId }) => {
        failures = 0;
        stream.word();
        // An event without an id shows that of the one before it.
        const id = lastEventId === last ? "" : lastEventId;
        last = lastEventId;
        calls.event(name, data, id);
        if (name === "heartbeat") listen(); // it says what the feed's events are called
      });
    }
  };
  listen();
  source.addEventListener("open", () => stream.opened());
  source.addEventListener("error", (event) => {
    // The server's own `error` event has data; the browser's has none.
    if (event.data !== undefined) return calls.event("error", event.data, "");
    failures += 1;
    if (source.readyState === 2 || failures >= FAILURES) return stream.end();
    calls.lost();
    stream.limit(RETURNS_WITHIN);
  });
  return stream;
}

export function openFetch(spec, position, calls) {
  const stopping = new AbortController();
  const stream = new Stream(calls, () => stopping.abort());
  readFetch(spec, position, calls, stream, stopping.signal).then(stream.end, () =>
    stream.end({ status: 0 }),
  );
  return stream;
}

async function readFetch(spec, position, calls, stream, signal) {
  const response = await spec.ask(spec.address(position), true, signal, position);
  const after = parseFloat(response.headers.get("Retry-After"));
  const wait = after >= 0 ? after * 1_000 : undefined;
  if (response.status !== 200) return { status: response.status, wait };
  const type = response.headers.get("Content-Type") ?? "";
  if (!/^text\/event-stream\b/i.test(type)) return { status: 406 };
  stream.opened();
  const decoder = new Decoder(position ?? "");
  const text = new TextDecoderStream("utf-8", { ignoreBOM: true });
  const reader = response.body.pipeThrough(text).getReader();
  let last = position ?? "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const events = decoder.push(piece.value);
    // A refusal for the time being is a comment; later comments are heartbeats.
    if (stream.lived || events.length) stream.word();
    for (const { name, data, id } of events) {
      calls.event(name, data, id === last ? "" : id);
      last = id;
    }
    // A block of nothing but an id moves the position.
    if (decoder.lastEventId !== last) calls.event("", "", (last = decoder.lastEventId));
  }
  // The server's own wish, spread so that clients do not come together.
  const { retry } = decoder;
  return { status: 0, wait: wait ?? (retry === null ? 2_000 : retry * (0.75 + Math.random() / 2)) };
}
