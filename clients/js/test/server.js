/** A small Headwater server: one feed of numbered items, whose line fails as a test says. */

import { createServer } from "node:http";

export async function serving(options) {
  const server = new Feed(options);
  await server.listen();
  return server;
}

/** `/ticks` and `/ticks/stream`; positions are `p0`, `p1`, … after so many items. */
class Feed {
  items = [];
  streams = new Set();
  requests = []; // {path, query, headers, method}
  answers = []; // statuses that the next requests get instead of an answer
  silent = false; // streams are accepted, and nothing is sent on them
  status = null; // every request gets this one
  retry = 10;
  holds = true; // polls wait for news
  wrap = (content) => content; // what is put around pages, items and removals
  #server = createServer((request, response) => this.#answer(request, response));
  #port = 0;
  #sockets = new Set();

  constructor({ interval = 30, heartbeats = true, keep = 1_000, keyed = false } = {}) {
    Object.assign(this, { interval, heartbeats, keep, keyed });
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  get url() {
    return `http://127.0.0.1:${this.#port}/ticks`;
  }

  listen() {
    return new Promise((resolve) => {
      this.#server.listen(this.#port, "127.0.0.1", () => {
        this.#port = this.#server.address().port;
        resolve();
      });
    });
  }

  /** Cuts every connection, and accepts none until `listen`. */
  stop() {
    this.cut();
    return new Promise((resolve) => this.#server.close(resolve));
  }

  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Ends one stream after some last words. */
  end(response, words) {
    this.streams.delete(response);
    response.end(words);
  }

  add(...items) {
    for (const item of items) {
      this.items.push(item);
      for (const response of this.streams) response.write(this.frame(this.items.length - 1));
    }
  }

  remove(id) {
    this.add({ removed: { id } });
  }

  frame(index) {
    const item = this.items[index];
    const name = item.removed ? "tick_removed" : "tick";
    const data = JSON.stringify(this.wrap(item.removed ?? item));
    return `event: ${name}\nid: p${index + 1}\ndata: ${data}\n\n`;
  }

  page(after) {
    const from = after === null ? Math.max(0, this.items.length - 20) : Number(after.slice(1));
    const news = this.items.slice(from, from + 100);
    const position = `p${from + news.length}`;
    const ticks = news.filter((item) => !item.removed);
    const removed = news.filter((item) => item.removed).map((item) => item.removed);
    const page = { ticks, start: `p${from}`, position, has_more: from + news.length < this.items.length };
    return after !== null && this.keyed ? { ...page, removed } : page;
  }

  #answer(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    const { method, headers } = request;
    this.requests.push({ path: pathname, query: Object.fromEntries(searchParams), headers, method });
    const status = this.answers.shift() ?? this.status;
    if (status) return response.writeHead(status, { "Retry-After": "0.05" }).end("{}");
    const after = headers["last-event-id"] ?? searchParams.get("after");
    const gone = after && !(this.items.length - this.keep <= Number(after.slice(1)));
    if (pathname === "/ticks") return this.#rest(response, after, gone, searchParams.get("wait"));
    if (pathname !== "/ticks/stream") return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.flushHeaders();
    if (this.silent) return;
    const beat = `event: heartbeat\ndata: {"event":"tick","interval":${this.interval}}\n\n`;
    if (this.heartbeats && searchParams.get("heartbeat")) response.write(beat);
    response.write(`retry: ${this.retry}\n\n`);
    if (gone) response.write(`event: reset\ndata: {"reason":"expired"}\n\n`);
    if (after && !gone) {
      for (let index = Number(after.slice(1)); index < this.items.length; index += 1) {
        response.write(this.frame(index));
      }
    } else {
      const page = this.page(null);
      response.write(`event: snapshot\nid: ${page.position}\ndata: ${JSON.stringify(this.wrap(page))}\n\n`);
    }
    this.streams.add(response);
    response.on("close", () => this.streams.delete(response));
  }

  #rest(response, after, gone, wait) {
    const send = (status, body) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
    if (gone) return send(410, { reason: "expired" });
    const until = Date.now() + (this.holds ? Number(wait ?? 0) * 1_000 : 0);
    const look = () => {
      const page = this.page(after);
      if (page.position !== after || Date.now() >= until) return send(200, this.wrap(page));
      if (!response.destroyed) setTimeout(look, 5);
    };
    look();
  }
}

/** Waits for a condition; fails with what it shows when that takes too long. */
export async function until(condition, milliseconds = 15_000) {
  const end = performance.now() + milliseconds;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${milliseconds} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export const numbers = (count, first = 0) =>
  Array.from({ length: count }, (_, index) => ({ id: `i${first + index}`, n: first + index }));
