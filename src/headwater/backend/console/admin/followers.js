/** Who follows what, and what the server reads for it. It is loaded again every few seconds. */

import { everything, request } from "../api.js";
import { agoTime, bytes, el, number } from "../dom.js";
import { Section, button } from "./section.js";

export function streamsSection(may) {
  let several = false; // processes
  const section = new Section({
    title: "Streams",
    live: true,
    wide: true,
    empty: "Nobody follows anything.",
    columns: [
      ["Who", ({ email, client, worker }) => [email ?? "a program", el("small", {}, from(client, worker))]],
      ["Follows", ({ address }) => el("code", {}, address)],
      ["Since", ({ opened_at: at }) => agoTime(at)],
      ["Position", ({ position }) => position && el("code", { title: position }, short(position))],
      ["Lag", ({ lag }) => (lag === null ? "" : number(lag)), "figure"],
      ["Waiting", ({ waiting_bytes: size }) => bytes(size), "figure"],
      ["Sent", ({ sent_bytes: size }) => (size === null ? "" : bytes(size)), "figure"],
      ["", (stream) => may && closing(stream)],
    ],
  });
  const from = (client, worker) => (several ? `${client}, process ${worker}` : client);
  const closing = ({ id, email, address }) => {
    const close = () => request(`/api/streams/${id}`, { method: "DELETE" });
    const done = "It is closed. Its client comes back in some seconds, and misses nothing.";
    const label = `Close ${address} of ${email ?? "a program"}, ${id}`;
    return button("Close", () => section.act(() => close().then(() => done)), { "aria-label": label });
  };
  section.load = async () => {
    try {
      const { open, dropped, workers } = await request("/api/streams?limit=1");
      several = workers.length > 1;
      section.rows = await everything("/api/streams", "streams");
      const whose = several ? `${workers.length} processes` : `process ${workers[0]}`;
      section.count(`${number(open)} open, ${number(dropped)} dropped, ${whose}`);
    } catch (problem) {
      return section.say(problem.message, true);
    }
    section.show();
  };
  return section;
}

export function tailsSection() {
  let before = null;
  let several = false; // processes
  const section = new Section({
    title: "Tails",
    live: true,
    empty: "Nothing is read: nobody follows a feed.",
    columns: [
      ["Reads", ({ name, worker }) => (several ? [name, el("small", {}, `process ${worker}`)] : name)],
      ["Changes", ({ changes }) => number(changes), "figure"],
      ["Per second", ({ rate }) => (rate === null ? "" : number(Math.round(rate * 10) / 10)), "figure"],
      ["Streams", ({ streams }) => number(sum(Object.values(streams))), "figure"],
    ],
  });
  section.load = async () => {
    let tails;
    try {
      const answer = await request("/api/tails");
      tails = answer.tails;
      several = answer.workers.length > 1;
    } catch (problem) {
      return section.say(problem.message, true);
    }
    const now = performance.now();
    const key = ({ name, worker }) => `${worker} ${name}`;
    const then = new Map(before?.tails.map((tail) => [key(tail), tail.changes]));
    section.rows = tails.map((tail) => {
      const known = then.get(key(tail));
      const grown = tail.changes - known;
      // A tail that began anew counts from 0.
      return { ...tail, rate: grown >= 0 ? grown / ((now - before.at) / 1_000) : null };
    });
    before = { at: now, tails };
    section.show();
  };
  return section;
}

const sum = (values) => values.reduce((one, other) => one + other, 0);
const short = (position) => (position.length > 14 ? `…${position.slice(-12)}` : position);
