// Made from src/ by build.mjs; edit it there.

// src/decoder.js
var LONGEST = 2 ** 26;
var Decoder = class {
  retry = null;
  // milliseconds, once the stream has said them
  lastEventId;
  // of the last event, or of an empty one that only moves it
  #line = "";
  #begun = false;
  #afterCr = false;
  #data = null;
  #name = "";
  #id;
  /** `lastEventId`: of the connection before. */
  constructor(lastEventId = "") {
    this.lastEventId = this.#id = lastEventId;
  }
  /** The events that `text`, the next piece of the stream, completes: {name, data, id}. */
  push(text) {
    const events = [];
    if (!text) return events;
    if (!this.#begun && text[0] === "\uFEFF") text = text.slice(1);
    else if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#begun = true;
    if (text) this.#afterCr = text.endsWith("\r");
    else this.#afterCr = false;
    const [first, ...lines] = text.split(/\r\n|\r|\n/);
    this.#line += first;
    for (const line of lines) {
      this.#take(this.#line, events);
      this.#line = line;
    }
    if (this.#line.length + (this.#data?.length ?? 0) > LONGEST) {
      throw new RangeError(`an event is longer than ${LONGEST} characters`);
    }
    return events;
  }
  #take(line, events) {
    if (line === "") return this.#dispatch(events);
    const [, field, value = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
    if (field === "data") this.#data = this.#data === null ? value : `${this.#data}
${value}`;
    else if (field === "event") this.#name = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }
  #dispatch(events) {
    this.lastEventId = this.#id;
    if (this.#data !== null) {
      events.push({ name: this.#name || "message", data: this.#data, id: this.#id });
    }
    this.#data = null;
    this.#name = "";
  }
};

// src/streams.js
var RETURNS_WITHIN = 3e4;
var FAILURES = 3;
var Stream = class {
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
};
function openEventSource(spec, position, calls) {
  const withCredentials = spec.credentials === "include";
  const source = new spec.EventSource(spec.address(position), { withCredentials });
  const stream = new Stream(calls, () => source.close());
  const heard = /* @__PURE__ */ new Set();
  let last = "";
  let failures = 0;
  const listen = () => {
    for (const name of spec.names()) {
      if (heard.has(name)) continue;
      heard.add(name);
      source.addEventListener(name, ({ data, lastEventId }) => {
        failures = 0;
        stream.word();
        const id = lastEventId === last ? "" : lastEventId;
        last = lastEventId;
        calls.event(name, data, id);
        if (name === "heartbeat") listen();
      });
    }
  };
  listen();
  source.addEventListener("open", () => stream.opened());
  source.addEventListener("error", (event) => {
    if (event.data !== void 0) return calls.event("error", event.data, "");
    failures += 1;
    if (source.readyState === 2 || failures >= FAILURES) return stream.end();
    calls.lost();
    stream.limit(RETURNS_WITHIN);
  });
  return stream;
}
function openFetch(spec, position, calls) {
  const stopping = new AbortController();
  const stream = new Stream(calls, () => stopping.abort());
  readFetch(spec, position, calls, stream, stopping.signal).then(
    stream.end,
    () => stream.end({ status: 0 })
  );
  return stream;
}
async function readFetch(spec, position, calls, stream, signal) {
  const response = await spec.ask(spec.address(position), true, signal, position);
  const after = parseFloat(response.headers.get("Retry-After"));
  const wait = after >= 0 ? after * 1e3 : void 0;
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
    if (stream.lived || events.length) stream.word();
    for (const { name, data, id } of events) {
      calls.event(name, data, id === last ? "" : id);
      last = id;
    }
    if (decoder.lastEventId !== last) calls.event("", "", last = decoder.lastEventId);
  }
  const { retry } = decoder;
  return { status: 0, wait: wait ?? (retry === null ? 2e3 : retry * (0.75 + Math.random() / 2)) };
}

// src/waiting.js
var BACK_OFF = { first: 500, most: 1e4 };
var LONGEST2 = 2 ** 31 - 1;
var SLOTS = 5;
var { locks } = stores() && globalThis.navigator || {};
function stores() {
  try {
    new BroadcastChannel("headwater").close();
    return globalThis.sessionStorage !== null;
  } catch {
    return false;
  }
}
function backOff(failures) {
  const most = Math.min(BACK_OFF.most, BACK_OFF.first * 2 ** failures);
  return most / 2 + Math.random() * most / 2;
}
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted || !milliseconds) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, Math.min(milliseconds, LONGEST2));
    signal.addEventListener("abort", done);
  });
}
async function slot(url) {
  const [page] = globalThis.performance?.getEntriesByType?.("navigation") ?? [];
  const many = page?.nextHopProtocol && page.nextHopProtocol !== "http/1.1";
  if (!locks || many || url.origin !== globalThis.location?.origin) return () => {
  };
  for (let place = 0; place < SLOTS; place += 1) {
    const free = await new Promise(
      (resolve) => locks.request(
        `headwater:slot:${place}`,
        { ifAvailable: true },
        (lock) => lock ? new Promise((release) => resolve(release)) : resolve(null)
      )
    );
    if (free) return free;
  }
  return null;
}
function turn() {
  return new Promise(
    (resolve) => locks.request("headwater:turn", () => new Promise((release) => resolve(release)))
  );
}

// src/connection.js
var FIRST_WORD = { before: 1e4, polling: 4e3 };
var POLLS = { first: 500, most: 6e4 };
var WAIT = 25;
var ANSWERS_WITHIN = 1e4;
var BETWEEN_POLLS = 3e3;
var HELD = 900;
var GLIMPSE = { time: 700, pause: 400 };
var SLEPT = 12e4;
var REFUSALS = /* @__PURE__ */ new Set([400, 401, 403, 404, 405, 406, 410, 413, 422]);
var Connection = class {
  position = null;
  state = "connecting";
  status = null;
  #spec;
  #emit;
  #rest;
  // null where the feed turned out to have no REST half
  #turn = null;
  // aborts what runs; null while stopped
  #stream = null;
  #beats = 0;
  // milliseconds between heartbeats, once the server has sent one
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
    const missed = this.#beats && Date.now() - this.#stream.heard > 3 * this.#beats + 1e3;
    if (!missed && late < SLEPT) return;
    this.#tell("stale");
    this.#stream.end();
  }
  async #run(signal, wait) {
    if (wait) this.#tell("reconnecting");
    await pause(wait, signal);
    let misses = 0;
    while (!signal.aborted) {
      const free = await slot(this.#spec.url);
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
      if (end.status === void 0) end = await this.#ask(signal, 0);
      if (end.status === 200 && this.#rest && (misses || !free)) {
        end = await this.#polls(signal, free && Math.min(POLLS.most, POLLS.first * 2 ** misses));
      }
      if (signal.aborted) return;
      if (end.status === 200 && (this.#rest || lived)) continue;
      if (end.status === 204) return this.#stopAt("closed", 204);
      if (REFUSALS.has(end.status)) return this.#stopAt("refused", end.status);
      if (this.state !== "stale" || !lived) this.#tell("reconnecting");
      const more = backOff(misses);
      await pause(end.wait === void 0 ? more : end.wait + more / 10, signal);
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
        begins: this.#beats > 0 || this.#rest && position === null,
        word: () => {
          if (!glimpse) return this.#tell("live");
          setTimeout(this.#stream?.end, GLIMPSE.time, { status: 0 });
        },
        lost: () => this.state !== "polling" && this.#tell("reconnecting"),
        event: (name, data, id) => this.#event(name, data, id),
        resolve
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
      if (interval > 0) this.#beats = interval * 1e3;
      if (event) this.#spec.event ??= event;
      if (envelope) this.#spec.envelope ??= envelope;
    }
    this.#emit({ name, data, id, from: id ? this.position : void 0 });
    const status = name === "error" && parsed(data)?.status;
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
      answer = await this.#ask(signal, Math.min(WAIT, Math.ceil((until - began) / 1e3)));
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
    const timer = setTimeout(stop, wait * 1e3 + ANSWERS_WITHIN);
    signal.addEventListener("abort", stop);
    const from = this.position;
    try {
      const address = rest ? rest(from, wait) : this.#spec.address(from);
      const response = await this.#spec.ask(address, !rest, stopping.signal, from);
      if (rest && [404, 405, 406].includes(response.status)) {
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
      return { status: response.status, wait: after >= 0 ? after * 1e3 : void 0 };
    } catch {
      return { status: 0 };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      stop();
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
};
function itemsOf(page) {
  return Object.values(page ?? {}).find(Array.isArray);
}
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return void 0;
  }
}

// src/options.js
var OPTIONS = {
  onSnapshot: "function",
  onItem: "function",
  onRemoved: "function",
  onReset: "function",
  onEvent: "function",
  onState: "function",
  onFrame: "function",
  onSignIn: "function",
  event: "string",
  envelope: "string",
  events: "array",
  after: "string",
  resume: "string or object",
  rest: "boolean",
  heartbeat: "boolean",
  tabs: "boolean, string or number",
  key: "string, array or function",
  headers: "object, array or function",
  method: "string",
  body: "any",
  credentials: "string",
  fetch: "function",
  EventSource: "function"
};
var HELD2 = { ...OPTIONS, onChange: "function" };
var OF = {
  follow: OPTIONS,
  keyed: HELD2,
  list: { ...HELD2, keep: "number" },
  followRun: Object.fromEntries(
    ["onChange", "onEvent", "onState", "onSignIn", "after", "headers", "credentials", "fetch"].map(
      (name) => [name, HELD2[name]]
    )
  )
};
function checked(name, options) {
  const known = OF[name];
  options ??= {};
  if (typeof options !== "object") throw new TypeError(`${name}: the options are no object`);
  for (const [option, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, option)) {
      throw new TypeError(
        `${name} has no option ${option}: it has ${Object.keys(known).join(", ")}. What a feed is asked for is part of its address, as in "/api/logs?level=error"`
      );
    }
    const types = known[option];
    const type = Array.isArray(value) ? "array" : typeof value;
    if (value != null && types !== "any" && !types.includes(type)) {
      throw new TypeError(`${name}: the option ${option} is of type ${type}, and must be of type ${types}`);
    }
  }
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value != null));
}
async function headersOf({ headers }) {
  try {
    return new Headers(await (typeof headers === "function" ? headers() : headers));
  } catch (error) {
    report(error);
    throw error;
  }
}
var report = (error) => (globalThis.reportError ?? console.error)(error);

// src/tabs.js
var ASK = 2e4;
var REPLACE = 3e4;
var Tabs = class {
  leads = false;
  #key;
  #connection;
  #follow;
  #channel = null;
  #name = `${Math.random()}`;
  #synced = false;
  // it was shown what the feed holds
  #heard = 0;
  #asked = false;
  // the leader was asked whether it still runs
  #free = null;
  // gives the lock back
  #waiting = null;
  // aborts the request for the lock
  /**
   * `follow`: {take(message), knows(id), shown()}: what a message is given to, whether a position
   * was seen, and what a tab that joins is shown.
   */
  constructor(key, connection, follow2) {
    this.#key = `headwater:${key}`;
    this.#connection = connection;
    this.#follow = follow2;
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
    const waiting = this.#waiting = new AbortController();
    const lead = () => new Promise((free) => {
      if (waiting.signal.aborted || !this.#channel) return free();
      this.leads = true;
      this.#free = free;
      this.#connection.start();
    });
    locks.request(this.#key, how ?? { signal: waiting.signal }, lead).catch(() => {
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
    if (name === "heartbeat") this.#follow.take(message);
    else if (name === "snapshot" || name === "reset" || page && from === null) this.#begin(message);
    else if (!this.#synced) return;
    else if (from === void 0 || from === this.#connection.position || this.#follow.knows(message.id ?? page.position)) {
      this.#follow.take(message);
    } else this.#join();
  }
  #post(message) {
    this.#channel?.postMessage(message);
  }
};

// src/view.js
var View = class {
  items = /* @__PURE__ */ new Map();
  #fields;
  #keep;
  #next = 0;
  // names items that have no key
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
    if (values.includes(void 0)) return void 0;
    return values.length === 1 ? values[0] : JSON.stringify(values);
  }
};

// src/follow.js
var TICK = 5e3;
var SEEN = 1e3;
var KEPT = 1e3;
var QUEUE = 1e3;
var FRAME = 16;
var CALLBACKS = ["onSnapshot", "onItem", "onRemoved", "onReset", "onEvent"];
var Follow = class {
  #options;
  #spec;
  #list;
  #connection;
  #tabs = null;
  #view;
  #state = "connecting";
  #status = null;
  #seen = /* @__PURE__ */ new Set();
  #queues = /* @__PURE__ */ new Set();
  // of iterators
  #first = null;
  // the queue of the first iterator, which misses nothing
  #resting = false;
  #closed = new AbortController();
  #flush = null;
  #asking = null;
  // the sign-in that is asked for
  constructor(url, options, { keep, list: list2 } = {}) {
    this.#options = options;
    const callbacks = CALLBACKS.some((name) => options[name]);
    const plain = !options.headers && !options.method && !options.body && !options.fetch;
    const alone = options.after || options.resume || !plain || !(callbacks || keep);
    const tabs = options.tabs ?? !alone;
    const spec = this.#spec = specOf(url, options, !plain);
    const key = typeof options.key === "function" ? (item) => this.#call("key", item) : options.key;
    this.#view = keep || tabs ? new View(key ?? "id", keep ?? KEPT) : null;
    this.#list = list2;
    this.#connection = new Connection(
      spec,
      (message) => this.#tabs ? this.#tabs.lead(message) : this.#take(message)
    );
    if (tabs && locks) {
      const name = `${spec.address(null)} ${tabs === true ? "" : tabs}`;
      this.#tabs = new Tabs(name, this.#connection, {
        take: (message) => this.#take(message),
        knows: (id) => this.#seen.has(id),
        shown: () => ({ event: spec.event, envelope: spec.envelope, items: [...this.#view.items.values()] })
      });
    }
    if (!callbacks && !keep) this.#queues.add(this.#first = { changes: [] });
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
    const items = this.#view?.items ?? /* @__PURE__ */ new Map();
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
      for (; ; ) {
        if (queue.changes.length) {
          yield queue.changes.shift();
        } else if (this.#state === "closed") return;
        else if (this.#state === "refused" && !this.#asking) throw this.#refusal();
        else if (this.#resting) this.#wake();
        else await new Promise((resolve) => queue.wake = resolve);
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
    for (const key of page.removed ?? []) this.#removed(key);
    for (const item of itemsOf({ ...page, removed: null })) this.#item(item);
    this.#store();
  }
  #reset(reason) {
    this.#connection.position = null;
    this.#change("onReset", { type: "reset", reason }, reason);
  }
  /** Goes on to a position; false for one that was there already. */
  #moved(id) {
    if (this.#spec.rest && this.#seen.has(id)) return false;
    this.#seen.add(id);
    if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
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
};
function keyed(url, options) {
  return new Follow(url, checked("keyed", options), { keep: Infinity });
}
function list(url, options) {
  const { keep = 1e3, ...others } = checked("list", options);
  if (!(keep >= 1)) throw new RangeError(`keep is ${keep}, and must be 1 or more`);
  return new Follow(url, others, { keep, list: true });
}
function follow(url, options) {
  return new Follow(url, checked("follow", options));
}
function specOf(url, options, fetches) {
  const { credentials = "same-origin", method, body, EventSource = globalThis.EventSource } = options;
  const given = addressed(url);
  const sent = typeof options.headers === "function" ? void 0 : options.headers;
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
    fetches: fetches || !EventSource,
    // Node has fetch alone
    credentials,
    event: options.event,
    envelope: options.envelope,
    /** What is in the envelope; errors and resets have none. */
    opened: (body2) => spec.envelope && body2?.[spec.envelope] || body2,
    EventSource,
    names() {
      const item = spec.event ?? "message";
      return [item, `${item}_removed`, "snapshot", "reset", "heartbeat", ...options.events ?? []];
    },
    address: (position) => half(isFeed ? `${path}/stream` : given.pathname, {
      heartbeat: options.heartbeat === false ? null : "event",
      [isFeed ? "after" : "lastEventId"]: position
    }),
    rest: isFeed ? (position, wait) => half(path, { after: position, wait: position && wait }) : null,
    async ask(address, isStream, signal, position) {
      const headers = await headersOf(options);
      headers.set("Accept", isStream ? "text/event-stream" : "application/json");
      if (isStream && position && spec.fetches) headers.set("Last-Event-ID", inUtf8(position));
      const how = isStream && fetches ? { method, body } : {};
      const ask = options.fetch ?? globalThis.fetch;
      return ask(address, { ...how, headers, credentials, cache: "no-store", signal });
    }
  };
  return spec;
}
function inUtf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
function addressed(url) {
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  try {
    const given = new URL(url, base);
    if (url && /^(string|object)$/.test(typeof url) && /^https?:$/.test(given.protocol)) return given;
  } catch {
  }
  const example = `${base ? "" : "http://localhost:8000"}/api/logs`;
  throw new TypeError(`${url} is no address of a feed, such as "${example}"`);
}
function stored(resume) {
  if (typeof resume !== "string") return resume;
  return {
    get: () => sessionStorage.getItem(resume),
    set: (position) => position && sessionStorage.setItem(resume, position)
  };
}

// src/run.js
var TRIES = 8;
var ANSWERS_WITHIN2 = 1e4;
function followRun(url, given) {
  const { onChange, onEvent, onState, onSignIn, ...options } = checked("followRun", given);
  const address = addressed(url);
  const path = address.pathname.replace(/(\/stream)?$/, "");
  const ask = options.fetch ?? ((...asked) => fetch(...asked));
  let resolve, reject;
  const ended = new Promise((...both) => [resolve, reject] = both);
  ended.catch(() => {
  });
  const closing = new AbortController();
  const { signal } = closing;
  signal.addEventListener("abort", () => feed.close());
  const run = { text: "", state: "queued", ended, close: () => closing.abort() };
  const refused = (status) => reject(Object.assign(new Error(`The server refused the run with ${status}.`), { status }));
  const changed = (name, data) => {
    if (name) onEvent?.(name, data, run);
    onChange?.(run);
  };
  async function over() {
    feed.close();
    address.pathname = path;
    for (let tries = 0; tries < TRIES && !signal.aborted && !await answered(); tries += 1) {
      await pause(backOff(tries), signal);
    }
    if (signal.aborted) return;
    changed();
    resolve(run);
  }
  async function answered() {
    try {
      const headers = await headersOf(options);
      headers.set("Accept", "application/json");
      const { credentials = "same-origin" } = options;
      const within = AbortSignal.timeout(ANSWERS_WITHIN2);
      const answer = await ask(address.href, { headers, credentials, cache: "no-store", signal: within });
      if (answer.ok) Object.assign(run, await answer.json());
      return answer.status < 500 && answer.status !== 408 && answer.status !== 429;
    } catch {
      return false;
    }
  }
  address.pathname = `${path}/stream`;
  const feed = new Follow(address.href, {
    ...options,
    rest: false,
    tabs: false,
    fetch: ask,
    onReset() {
      run.text = "";
      changed();
    },
    onEvent(name, data) {
      if (name === "delta") run.text += data.text;
      if (name === "restart") run.text = "";
      if (name === "run") Object.assign(run, data);
      if (name !== "end") return changed(name === "delta" || name === "run" ? "" : name, data);
      run.state = data.state;
      changed();
      over();
    },
    onState(state, { status }) {
      onState?.(state, { status });
      if (status === 204) over();
      if (state === "refused" && !(onSignIn && [401, 403].includes(status))) refused(status);
    },
    async onSignIn(status) {
      let answer = false;
      try {
        return answer = await onSignIn?.(status);
      } finally {
        if (!answer) refused(status);
      }
    }
  });
  return run;
}
export {
  Decoder,
  follow,
  followRun,
  keyed,
  list
};
