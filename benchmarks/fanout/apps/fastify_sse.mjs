// @fastify/sse: replies are kept open in a set, each is sent every event.
import Fastify from "fastify";
import sse from "@fastify/sse";
import { listen, payload, port } from "./trigger.mjs";

const rooms = new Map();
const app = Fastify();
await app.register(sse);

app.get("/:group", { sse: "only" }, async (request, reply) => {
  const group = Number(request.params.group);
  if (!rooms.has(group)) rooms.set(group, new Set());
  rooms.get(group).add(reply.sse);
  reply.sse.onClose(() => rooms.get(group).delete(reply.sse));
  reply.sse.keepAlive();
  reply.sse.sendHeaders();
  reply.raw.flushHeaders();
});

listen((group, seq) => {
  const event = { id: String(seq), event: "log", data: payload(seq) };
  for (const stream of rooms.get(group) ?? []) stream.send(event).catch(() => {});
});

await app.listen({ port, host: "127.0.0.1", backlog: 4096 });
