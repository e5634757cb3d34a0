/** A feed is followed exactly, whatever the line between does. */

import { describe, test as base, expect, vi } from "vitest";
import { follow, followRun, keyed, list } from "../headwater.js";
import { numbers, serving, until } from "./server.js";

/** Each test has a server of its own, and `followed`, which follows a feed and notes everything. */
const test = base.extend({
  server: async ({}, use) => {
    const server = await serving();
    await use(server);
    await server.stop();
  },
  open: async ({}, use) => {
    const feeds = [];
    await use((feed) => (feeds.push(feed), feed));
    for (const feed of feeds) feed.close();
  },
  followed: ({ server, open }, use) =>
    use((options = {}) => {
      const seen = { numbers: [], states: [], snapshots: 0, resets: [], removed: [], frames: [] };
      const feed = follow(server.url, {
        onSnapshot: (items) => {
          seen.snapshots += 1;
          seen.numbers = items.map(({ n }) => n);
        },
        onItem: ({ n }) => seen.numbers.push(n),
        onRemoved: ({ id }) => seen.removed.push(id),
        onReset: (reason) => seen.resets.push(reason),
        onState: (state, { status }) => seen.states.push(status ? `${state} ${status}` : state),
        onFrame: (frame) => seen.frames.push(frame),
        ...options,
      });
      return Object.assign(seen, { feed: open(feed) });
    }),
});

const upTo = (count) => Array.from({ length: count }, (_, index) => index);
const has = (seen, count) => until(() => seen.numbers.length >= count);
const live = (seen) => until(() => seen.feed.state === "live");

const HEADERS = { Authorization: "Bearer key" };

for (const [by, options] of [
  ["EventSource", {}],
  ["fetch", { headers: HEADERS }],
]) {
  test.concurrent(`by ${by}: a snapshot, then each item once, over cut lines and a server that was away`, async ({ server, open, followed }) => {
    server.add(...numbers(3));
    const seen = followed(options);
    await has(seen, 3);
    server.add(...numbers(2, 3));
    await has(seen, 5);
    for (let round = 0; round < 3; round += 1) {
      server.cut();
      server.add(...numbers(4, 5 + round * 4));
      await has(seen, 9 + round * 4);
      await live(seen);
    }
    await server.stop();
    await until(() => seen.feed.state === "reconnecting");
    server.add(...numbers(3, 17));
    await server.listen();
    await has(seen, 20);
    await live(seen);
    expect(seen.numbers).toEqual(upTo(20));
    expect(seen.snapshots).toBe(1);
    expect(server.streams.size).toBe(1);
  });

  test.concurrent.for([502, 503, 500, 429])(`by ${by}: a proxy's %i at the reconnect does not end it`, async (status, { server, followed }) => {
    server.add(...numbers(1));
    const seen = followed(options);
    await live(seen);
    server.status = status;
    server.cut();
    await until(() => server.requests.length > 4);
    server.add(...numbers(3, 1));
    server.status = null;
    await has(seen, 4);
    await live(seen);
    expect(seen.numbers).toEqual(upTo(4));
    expect(seen.snapshots).toBe(1);
  });

  test.concurrent(`by ${by}: a line that sends no heartbeats is dropped, and a new one takes its place`, async ({ server, open, followed }) => {
    server.interval = 0.2;
    const seen = followed(options);
    await live(seen);
    // The server stands still: the connection stays, and carries nothing.
    const [dead] = server.streams;
    server.streams.clear();
    server.add(...numbers(2));
    await has(seen, 2);
    expect(seen.states).toContain("stale");
    expect(dead.writable).toBe(true);
    expect(seen.numbers).toEqual(upTo(2));
  });

  test.concurrent(`by ${by}: where streams are held back it polls, and streams again later`, async ({ server, open, followed }) => {
    server.silent = true;
    server.add(...numbers(2));
    const seen = followed(options);
    await until(() => seen.feed.state === "polling");
    server.add(...numbers(150, 2));
    await has(seen, 152);
    server.silent = false;
    await live(seen);
    server.add(...numbers(1, 152));
    await has(seen, 153);
    expect(seen.numbers).toEqual(upTo(153));
  });

  test.concurrent(`by ${by}: a position that is gone is a reset and a new snapshot`, async ({ server, open, followed }) => {
    server.keep = 5;
    server.add(...numbers(3));
    const seen = followed(options);
    await live(seen);
    await server.stop();
    server.add(...numbers(30, 3));
    await server.listen();
    await until(() => seen.snapshots === 2);
    expect(seen.resets).toEqual(["expired"]);
    expect(seen.numbers).toEqual(upTo(33).slice(13));
  });

  test.concurrent(`by ${by}: 401 and 403 stop it until there is a new sign-in`, async ({ server, open, followed }) => {
    const asked = [];
    let signIn;
    const onSignIn = (status) => {
      asked.push(status);
      return new Promise((resolve) => (signIn = resolve));
    };
    server.add(...numbers(1));
    const seen = followed({ ...options, onSignIn });
    await live(seen);
    server.status = 401;
    server.cut();
    await until(() => asked.length === 1);
    const requests = server.requests.length;
    server.add(...numbers(2, 1));
    server.status = 403;
    signIn(true);
    await until(() => asked.length === 2);
    expect(asked).toEqual([401, 403]);
    expect(server.requests.length - requests).toBeLessThan(3);
    expect(seen.states).toContain("refused 401");
    server.status = null;
    signIn(true);
    await has(seen, 3);
    expect(seen.numbers).toEqual(upTo(3));
    expect(seen.snapshots).toBe(1);
    // Somebody else signed in: what the one before saw is replaced.
    server.status = 401;
    server.cut();
    await until(() => asked.length === 3);
    server.status = null;
    signIn("anew");
    await until(() => seen.snapshots === 2);
  });

  test.concurrent(`by ${by}: a right that is lost while it streams stops it`, async ({ server, open, followed }) => {
    const seen = followed(options);
    await live(seen);
    for (const response of server.streams) server.end(response, 'event: error\ndata: {"status":403}\n\n');
    await until(() => seen.feed.state === "refused");
    expect(seen.feed.status).toBe(403);
    const requests = server.requests.length;
    server.cut();
    seen.feed.reconnect();
    await live(seen);
    expect(server.requests.length).toBe(requests + 1);
  });

  test.concurrent(`by ${by}: a refusal for the time being is not a stream`, async ({ server, open, followed }) => {
    const seen = followed(options);
    await live(seen);
    server.heartbeats = true;
    for (const response of server.streams) server.end(response, "retry: 5\n\n");
    server.add(...numbers(1));
    await has(seen, 1);
    expect(seen.numbers).toEqual([0]);
  });
}

test.concurrent("there is only one loop, however often it is asked to reconnect", async ({ server, open, followed }) => {
  const seen = followed();
  await live(seen);
  for (let count = 0; count < 20; count += 1) seen.feed.reconnect();
  server.cut();
  seen.feed.reconnect();
  await live(seen);
  await until(() => server.streams.size === 1);
  server.add(...numbers(3));
  await has(seen, 3);
  expect(seen.numbers).toEqual(upTo(3));
  expect(server.streams.size).toBe(1);
});

test.concurrent("an item that comes twice is dropped by its position", async ({ server, open, followed }) => {
  const seen = followed();
  await live(seen);
  server.add(...numbers(2));
  for (const response of server.streams) response.write(server.frame(0) + server.frame(1));
  server.add(...numbers(1, 2));
  await has(seen, 3);
  expect(seen.numbers).toEqual(upTo(3));
});

test("after a sleep it is live again, at its position", async ({ server, open, followed }) => {
  const seen = followed();
  await live(seen);
  const [dead] = server.streams;
  server.streams.clear(); // the network forgot the connection, and nobody told the machine
  server.add(...numbers(2));
  const now = Date.now.bind(Date);
  const clock = vi.spyOn(Date, "now").mockImplementation(() => now() + 3_600_000);
  await has(seen, 2);
  await live(seen);
  clock.mockRestore();
  expect(seen.numbers).toEqual(upTo(2));
  expect(dead.writable).toBe(true);
});

test("a callback that throws repeats and loses nothing", async ({ server, open, followed }) => {
  const errors = vi.spyOn(console, "error").mockImplementation(() => {});
  const got = [];
  const seen = followed({
    onItem: ({ n }) => {
      got.push(n);
      throw new Error("a fault of the page");
    },
  });
  await live(seen);
  server.add(...numbers(3));
  await until(() => got.length === 3);
  server.cut();
  server.add(...numbers(1, 3));
  await until(() => got.length === 4);
  expect(got).toEqual(upTo(4));
  expect(errors).toHaveBeenCalledTimes(4);
  errors.mockRestore();
});

test.concurrent("closed is closed: nothing is asked and nothing is shown any more", async ({ server, open, followed }) => {
  const seen = followed();
  await live(seen);
  seen.feed.close();
  await until(() => server.streams.size === 0);
  const requests = server.requests.length;
  server.add(...numbers(1));
  seen.feed.reconnect();
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(server.requests.length).toBe(requests);
  expect(seen.numbers).toEqual([]);
  expect(seen.feed.state).toBe("closed");
});

test.concurrent("an iterator gets every change, and a slow one rests the connection", async ({ server, open, followed }) => {
  server.keep = 5_000;
  server.add(...numbers(1));
  const feed = open(follow(`${server.url}/stream`));
  const got = [];
  for await (const change of feed) {
    if (change.type === "snapshot") {
      got.push(...change.items.map(({ n }) => n));
      server.add(...numbers(2_500, 1));
      // Nobody takes anything: the connection is given up, and the queue stays short.
      await until(() => server.streams.size === 0);
    } else got.push(change.item.n);
    if (got.length === 2_501) break;
  }
  expect(got).toEqual(upTo(2_501));
  expect(feed.state).toBe("closed");
});

test.concurrent("an iterator of a feed that is refused throws", async ({ server, open, followed }) => {
  server.status = 403;
  const feed = open(follow(server.url));
  await expect(feed[Symbol.asyncIterator]().next()).rejects.toMatchObject({ status: 403 });
});

test.concurrent("a stored position survives a reload", async ({ server, open, followed }) => {
  let position = null;
  const resume = { get: async () => position, set: (value) => (position = value) };
  server.add(...numbers(2));
  const first = followed({ resume });
  await has(first, 2);
  server.add(...numbers(2, 2));
  await has(first, 4);
  first.feed.close();
  server.add(...numbers(2, 4));
  const second = followed({ resume });
  await has(second, 2);
  expect(second.numbers).toEqual([4, 5]);
  expect(second.snapshots).toBe(0);
});

test.concurrent("a keyed feed is a live Map", async ({ server, open, followed }) => {
  const changes = [];
  const ticks = open(keyed(server.url, { onChange: (items) => changes.push(items.size) }));
  server.add({ id: "a", n: 1 }, { id: "b", n: 2 });
  await until(() => ticks.items.size === 2);
  server.add({ id: "a", n: 3 });
  server.remove("b");
  await until(() => ticks.items.size === 1);
  expect(ticks.items.get("a")).toEqual({ id: "a", n: 3 });
  await until(() => changes.at(-1) === 1);
});

test.concurrent("a keyed feed that is polled loses what left", async ({ server, open, followed }) => {
  server.keyed = server.silent = true;
  server.add({ id: "a", n: 1 }, { id: "b", n: 2 });
  const ticks = open(keyed(server.url));
  await until(() => ticks.state === "polling" && ticks.items.size === 2);
  server.remove("b");
  await until(() => ticks.items.size === 1);
});

test.concurrent("an append-only feed is a list of a bounded length", async ({ server, open, followed }) => {
  const ticks = open(list(server.url, { keep: 100 }));
  await until(() => ticks.state === "live");
  server.add(...numbers(250));
  await until(() => ticks.items.at(-1)?.n === 249);
  expect(ticks.items.map(({ n }) => n)).toEqual(upTo(250).slice(150));
});

test.concurrent("by fetch, headers are asked for again at each connection, and a body is posted", async ({ server, open, followed }) => {
  let count = 0;
  const headers = () => ({ Authorization: `Bearer ${(count += 1)}` });
  const seen = followed({ headers, method: "POST", body: "{}" });
  await live(seen);
  server.add(...numbers(1));
  await has(seen, 1);
  server.cut();
  await until(() => server.requests.length === 2);
  await live(seen);
  expect(server.requests.map(({ method }) => method)).toEqual(["POST", "POST"]);
  expect(server.requests.map(({ headers: sent }) => sent.authorization)).toEqual(["Bearer 1", "Bearer 2"]);
  expect(server.requests[1].headers["last-event-id"]).toBe("p1");
});

test.concurrent("an event stream that is no feed is followed too", async ({ server, open, followed }) => {
  server.heartbeats = false;
  const events = [];
  const feed = open(follow(`${server.url}/stream`, {
    rest: false,
    events: ["tick"],
    onEvent: (name, data) => events.push([name, data.n]),
  }));
  await until(() => feed.state === "live");
  server.add(...numbers(1));
  await until(() => events.length === 1);
  expect(events).toEqual([["tick", 0]]);
});

for (const silent of [false, true]) {
  test.concurrent(`an envelope is opened, ${silent ? "by polls" : "on a stream"}`, async ({ server, followed }) => {
    server.wrap = (data) => ({ success: true, data });
    server.silent = silent;
    server.add(...numbers(2));
    const seen = followed({ envelope: "data" });
    await has(seen, 2);
    server.add(...numbers(1, 2));
    await has(seen, 3);
    server.remove("t1");
    await until(() => silent || seen.removed.length === 1);
    expect(seen.numbers).toEqual(upTo(3));
  });
}

test.concurrent("frames show what came, heartbeats included", async ({ server, open, followed }) => {
  server.add(...numbers(1));
  const seen = followed();
  await live(seen);
  await until(() => seen.frames.length === 2);
  expect(seen.frames.map(({ name }) => name)).toEqual(["heartbeat", "snapshot"]);
  expect(seen.frames[1].id).toBe("p1");
});

test("without EventSource, as in Node, it uses fetch", async ({ server, followed }) => {
  server.add(...numbers(2));
  const { EventSource } = globalThis;
  globalThis.EventSource = undefined;
  try {
    await has(followed(), 2);
  } finally {
    globalThis.EventSource = EventSource;
  }
});

test("by fetch a position is sent in UTF-8, as EventSource sends it", async ({ server, open }) => {
  open(follow(server.url, { headers: HEADERS, rest: false, after: "Grüße, 世界", onEvent() {} }));
  await until(() => server.requests.length);
  const { headers } = server.requests[0];
  expect(Buffer.from(headers["last-event-id"], "latin1").toString()).toBe("Grüße, 世界");
});

test.concurrent("by fetch: a server that says not to wait, and ends each stream, is asked less and less often", async ({ server, followed }) => {
  server.answers = Array(200).fill(503);
  const seen = followed({ headers: HEADERS });
  await until(() => server.requests.length >= 5);
  const first = Date.now();
  await until(() => server.requests.length >= 10);
  expect(Date.now() - first).toBeGreaterThan(500);
  seen.feed.close();
});

test.concurrent("by fetch: a wait that no timer can have is a long one", async ({ server, open }) => {
  server.retry = "9".repeat(14);
  server.add(...numbers(1));
  const feed = open(follow(`${server.url}/stream`, { headers: HEADERS, rest: false, onEvent() {} }));
  await until(() => feed.state === "live");
  for (const response of server.streams) server.end(response, "");
  await until(() => feed.state === "reconnecting");
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(server.requests.length).toBe(1);
});

test.concurrent("a server that does not hold polls back is not asked all the time", async ({ server, followed }) => {
  server.silent = true;
  server.holds = false;
  server.add(...numbers(1));
  const seen = followed();
  await until(() => seen.feed.state === "polling" && seen.numbers.length === 1);
  const asked = server.requests.length;
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(server.requests.length - asked).toBeLessThan(4);
});

describe("an error of the caller's own function is reported, and the feed goes on:", () => {
  const fails = () => {
    throw new Error("mine");
  };
  test.each([
    ["key", { key: fails }, keyed],
    ["resume.get", { resume: { get: fails, set() {} } }, follow],
    ["resume.get, later", { resume: { get: async () => fails(), set() {} } }, follow],
    ["resume.set", { resume: { get() {}, set: fails } }, follow],
  ])("%s", async (_, options, called) => {
    const server = await serving();
    const reported = vi.fn();
    vi.stubGlobal("reportError", reported);
    const got = [];
    const feed = called(server.url, { onItem: ({ n }) => got.push(n), headers: HEADERS, ...options });
    try {
      server.add(...numbers(1));
      await until(() => feed.state === "live");
      server.add(...numbers(2, 1));
      await until(() => got.length === 2);
      expect(server.requests.length).toBe(1);
      expect(reported).toHaveBeenCalledWith(new Error("mine"));
    } finally {
      feed.close();
      vi.unstubAllGlobals();
      await server.stop();
    }
  });

  test("headers", async ({ server, open }) => {
    const reported = vi.fn();
    vi.stubGlobal("reportError", reported);
    let tries = 0;
    const headers = () => ((tries += 1) === 1 ? fails() : HEADERS);
    const feed = open(follow(server.url, { headers, onItem() {} }));
    await until(() => feed.state === "live");
    vi.unstubAllGlobals();
    expect(reported).toHaveBeenCalledExactlyOnceWith(new Error("mine"));
  });
});

test.each([
  { headers: { "X-Name": "世界" } },
  { method: "GE T" },
  { body: "{}" }, // no GET has one
  { credentials: "all" },
])("what fetch would refuse at each connection is refused at once: %o", (options) => {
  expect(() => follow("http://localhost/api/logs", options)).toThrow(TypeError);
});

test.each([
  [follow, { onItm() {} }, /^follow has no option onItm: it has onSnapshot, onItem, .*EventSource\. /],
  [follow, { level: "error" }, /level.* is part of its address, as in "\/api\/logs\?level=error"$/],
  [follow, { onChange() {} }, /^follow has no option onChange/],
  [keyed, { keep: 5 }, /^keyed has no option keep: .*onChange/],
  [list, { onitem() {} }, /^list has no option onitem: .*onChange, keep/],
  [followRun, { onItem() {} }, /^followRun has no option onItem: it has onChange, onEvent/],
  [follow, { onItem: "show" }, "follow: the option onItem is of type string, and must be of type function"],
  [follow, { after: 7 }, "follow: the option after is of type number, and must be of type string"],
  [follow, { events: "progress" }, "must be of type array"],
  [follow, () => {}, "follow: the options are no object"],
  [list, { keep: 0 }, "keep is 0, and must be 1 or more"],
  [list, { keep: "many" }, "must be of type number"],
])("what is no option, or has another type, is named: %o %o", (called, options, sentence) => {
  expect(() => called("http://localhost/api/logs", options)).toThrow(sentence);
});

test("options that are undefined or null are not given", ({ open, server }) => {
  open(follow(server.url, { onItem() {}, after: null, resume: undefined, body: null, credentials: null }));
  open(list(server.url, null));
});

test("where nothing says what a path belongs to, the error gives a whole address", () => {
  for (const called of [follow, followRun]) {
    expect(() => called("/api/logs")).toThrow('such as "http://localhost:8000/api/logs"');
  }
});

test("in a worker a path belongs to the address of the worker", async ({ server, open }) => {
  globalThis.location = new URL("/worker.js", server.url);
  try {
    const feed = open(follow("/ticks", { onItem() {} }));
    await until(() => feed.state === "live");
  } finally {
    delete globalThis.location;
  }
});

test.each([undefined, null, "", 7, "ftp://localhost/api/logs", "http://", "javascript:alert(1)"])(
  "what is no address is refused at once: %s",
  (url) => {
    expect(() => follow(url, { onItem() {} })).toThrow(`${url} is no address of a feed`);
  },
);

describe("the result of a run", () => {
  /** Follows a run that has ended; `answers` are what asking for it gives, the last one again and again. */
  async function followed(...answers) {
    const states = [];
    let asked = 0;
    const stream = 'event: delta\ndata: {"text":"hi"}\n\nevent: end\nid: 1\ndata: {"state":"done"}\n\n';
    const run = followRun("http://localhost/runs/1", {
      onChange: ({ state, result }) => states.push([state, result]),
      async fetch(url, how) {
        if (new URL(url).pathname.endsWith("/stream")) {
          return new Response(stream, { headers: { "Content-Type": "text/event-stream" } });
        }
        const answer = answers[Math.min(asked++, answers.length - 1)];
        return typeof answer === "function" ? answer(how) : answer;
      },
    });
    const { text, state, result } = await run.ended;
    return { text, state, result, asked, states };
  }
  const done = () => Response.json({ state: "done", result: { rows: 7 } });

  test.concurrent("is asked for again while the server is away", async () => {
    const away = () => Promise.reject(new TypeError("fetch failed"));
    const seen = await followed(away, new Response("", { status: 503 }), done);
    expect(seen).toMatchObject({ text: "hi", state: "done", result: { rows: 7 }, asked: 3 });
    // The state is shown before the result has come.
    expect(seen.states).toContainEqual(["done", undefined]);
  });

  test.concurrent("is not there for a run that was forgotten", async () => {
    const seen = await followed(new Response("", { status: 404 }));
    expect(seen).toMatchObject({ state: "done", result: undefined, asked: 1 });
  });

  test("is asked for again where the server hangs", async () => {
    const limit = vi.spyOn(AbortSignal, "timeout").mockImplementation(() => AbortSignal.abort());
    const hangs = ({ signal }) => new Promise((_, reject) => signal?.aborted && reject(signal.reason));
    expect(await followed(hangs, done)).toMatchObject({ result: { rows: 7 }, asked: 2 });
    limit.mockRestore();
  });
});

test.each([
  [404, () => true],
  [401, () => false],
  [
    403,
    () => {
      throw new Error("the sign-in failed");
    },
  ],
])("a run that stays refused with %i ends with an error, also with a sign-in", async (status, onSignIn) => {
  const report = vi.spyOn(console, "error").mockImplementation(() => {});
  const run = followRun("http://localhost/api/answers/7", {
    onSignIn,
    fetch: async () => new Response(null, { status }),
  });
  await expect(run.ended).rejects.toMatchObject({ status });
  run.close();
  report.mockRestore();
});
