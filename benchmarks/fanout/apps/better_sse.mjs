// better-sse on node's own server: a channel for each group.
import { createServer } from "node:http";
import { createChannel, createSession } from "better-sse";
import { listen, payload, port } from "./trigger.mjs";

const channels = new Map();
const channelOf = (group) => {
  if (!channels.has(group)) channels.set(group, createChannel());
  return channels.get(group);
};

createServer(async (request, response) => {
  const session = await createSession(request, response);
  channelOf(Number(request.url.slice(1))).register(session);
}).listen({ port, host: "127.0.0.1", backlog: 4096 });

listen((group, seq) => {
  channelOf(group).broadcast(payload(seq), "log", { eventId: String(seq) });
});
