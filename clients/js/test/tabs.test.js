/** Tabs share one connection: each `follow` here is what a tab of its own would be. */

import { freeze } from "./locks.js";
import { test as base, expect, vi } from "vitest";
import { numbers, serving, until } from "./server.js";

const { follow, keyed } = await import("../headwater.js");

const test = base.extend({
  server: async ({}, use) => {
    const server = await serving();
    await use(server);
    await server.stop();
  },
  tab: async ({ server }, use) => {
    const tabs = [];
    await use((options = {}) => {
      const seen = { numbers: [], snapshots: 0, states: [], frames: [] };
      seen.feed = follow(server.url, {
        onSnapshot: (items) => {
          seen.snapshots += 1;
          seen.numbers = items.map(({ n }) => n);
        },
        onItem: ({ n }) => seen.numbers.push(n),
        onState: (state) => seen.states.push(state),
        onFrame: (frame) => seen.frames.push(frame.name),
        ...options,
      });
      tabs.push(seen.feed);
      return seen;
    });
    for (const feed of tabs) feed.close();
  },
});

const upTo = (count) => Array.from({ length: count }, (_, index) => index);
const have = (tabs, count) =>
  until(() => tabs.every(({ numbers: got, feed }) => got.length >= count && feed.state === "live"));

test("twelve tabs have one connection, and show the same", async ({ server, tab }) => {
  server.add(...numbers(2));
  const tabs = Array.from({ length: 12 }, () => tab());
  await have(tabs, 2);
  server.add(...numbers(50, 2));
  await have(tabs, 52);
  for (const { numbers: got, snapshots } of tabs) {
    expect(got).toEqual(upTo(52));
    expect(snapshots).toBe(1);
  }
  expect(server.streams.size).toBe(1);
  expect(server.requests.length).toBe(1);
});

test("a tab that joins is shown what the others have, without a request", async ({ server, tab }) => {
  server.add(...numbers(2));
  const first = tab();
  await have([first], 2);
  server.add(...numbers(3, 2));
  await have([first], 5);
  const second = tab();
  await have([second], 5);
  server.add(...numbers(1, 5));
  await have([first, second], 6);
  expect(second.numbers).toEqual(upTo(6));
  expect(second.feed.position).toBe(first.feed.position);
  expect(server.requests.length).toBe(1);
});

test("when the tab that leads closes, the next goes on at its position", async ({ server, tab }) => {
  const tabs = Array.from({ length: 4 }, () => tab());
  await have(tabs, 0);
  for (let round = 0; round < 3; round += 1) {
    server.add(...numbers(5, round * 5));
    await have(tabs, round * 5 + 5);
    tabs.shift().feed.close();
    server.add();
    await until(() => server.streams.size === 1 && server.requests.length === round + 2);
  }
  server.add(...numbers(1, 15));
  await have(tabs, 16);
  expect(tabs[0].numbers).toEqual(upTo(16));
  expect(tabs[0].snapshots).toBe(1);
});

test("a cut line, a restart and polling reach all tabs once", async ({ server, tab }) => {
  const tabs = [tab(), tab(), tab()];
  await have(tabs, 0);
  server.cut();
  server.add(...numbers(3));
  await have(tabs, 3);
  server.status = 502;
  server.cut();
  await until(() => server.requests.length > 4);
  server.status = null;
  server.add(...numbers(150, 3));
  await have(tabs, 153);
  for (const { numbers: got } of tabs) expect(got).toEqual(upTo(153));
  expect(server.streams.size).toBe(1);
});

test("one tab signs in for all", async ({ server, tab }) => {
  const asked = [];
  const onSignIn = (status) => new Promise((resolve) => asked.push({ status, resolve }));
  const tabs = [tab({ onSignIn }), tab({ onSignIn })];
  await have(tabs, 0);
  server.status = 401;
  server.cut();
  await until(() => asked.length === 2);
  server.status = null;
  server.add(...numbers(1));
  asked[1].resolve(true);
  await have(tabs, 1);
  asked[0].resolve(true);
  server.add(...numbers(1, 1));
  await have(tabs, 2);
  for (const { numbers: got } of tabs) expect(got).toEqual([0, 1]);
  expect(server.streams.size).toBe(1);
});

test("any tab may ask to reconnect, and the one that leads does", async ({ server, tab }) => {
  const tabs = [tab(), tab()];
  await have(tabs, 0);
  tabs[1].feed.reconnect({ wait: 50 });
  await until(() => tabs.every(({ states }) => states.includes("reconnecting")));
  server.add(...numbers(1));
  await have(tabs, 1);
  expect(server.streams.size).toBe(1);
});

test("other users and other addresses are not shared", async ({ server, tab }) => {
  const tabs = [tab({ tabs: "ann" }), tab({ tabs: "bob" }), tab({ tabs: false })];
  await have(tabs, 0);
  expect(server.streams.size).toBe(3);
});

test("a keyed feed reaches a tab that joins whole", async ({ server, tab }) => {
  const first = keyed(server.url);
  server.add({ id: "a", n: 1 }, { id: "b", n: 2 });
  await until(() => first.items.size === 2);
  server.remove("a");
  await until(() => first.items.size === 1);
  const second = keyed(server.url);
  await until(() => second.items.size === 1);
  expect([...second.items]).toEqual([["b", { id: "b", n: 2 }]]);
  first.close();
  second.close();
});

test("a leader that is frozen is replaced", async ({ server, tab }) => {
  const thaw = await freeze(`headwater:${server.url}/stream?heartbeat=event `);
  const seen = tab();
  const now = Date.now.bind(Date);
  let later = 0;
  const clock = vi.spyOn(Date, "now").mockImplementation(() => now() + later);
  // Each tick of 5 s is a minute: the leader is asked, and then replaced.
  const faster = setInterval(() => (later += 600), 50);
  await until(() => seen.feed.state === "live", 25_000);
  clearInterval(faster);
  clock.mockRestore();
  thaw();
  server.add(...numbers(1));
  await have([seen], 1);
  expect(server.streams.size).toBe(1);
});

test("of many feeds, one connection stays free for requests", async ({ server }) => {
  globalThis.location = { origin: new URL(server.url).origin };
  const feeds = Array.from({ length: 7 }, (_, index) => {
    const seen = { items: 0 };
    seen.feed = follow(`${server.url}?filter=${index}`, { onItem: () => (seen.items += 1) });
    return seen;
  });
  const inState = (state) => feeds.filter(({ feed }) => feed.state === state).length;
  await until(() => inState("live") === 5 && inState("polling") === 2);
  server.add(...numbers(1));
  await until(() => feeds.every(({ items }) => items === 1));
  expect(server.streams.size).toBe(5);
  for (const { feed } of feeds) feed.close();
  delete globalThis.location;
});

for (const [what, name, descriptor] of [
  ["storage, as to a frame in a sandbox", "sessionStorage", { get: refuse }],
  ["a BroadcastChannel, as Firefox does without cookies", "BroadcastChannel", { value: refuse }],
]) {
  test(`where the browser refuses ${what}, each tab follows by itself`, async ({ server }) => {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    const asked = vi.spyOn(navigator.locks, "request").mockImplementation(async () => refuse());
    Object.defineProperty(globalThis, name, { ...descriptor, configurable: true });
    globalThis.location = { origin: new URL(server.url).origin };
    vi.resetModules();
    const module = await import("../headwater.js");
    const feeds = [1, 2].map(() => module.list(server.url));
    await until(() => feeds.every((feed) => feed.state === "live"));
    server.add(...numbers(1));
    await until(() => feeds.every(({ items }) => items.length === 1));
    for (const feed of feeds) feed.close();
    delete globalThis.location;
    delete globalThis[name];
    if (before) Object.defineProperty(globalThis, name, before);
    asked.mockRestore();
  });
}

function refuse() {
  throw new DOMException("The operation is insecure.", "SecurityError");
}
