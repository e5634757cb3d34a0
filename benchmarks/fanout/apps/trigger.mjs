// What the peers on node have in common: the datagram that says which events to send.
import { createSocket } from "node:dgram";

export const port = Number(process.env.PORT);

export function payload(seq) {
  const bare = JSON.stringify({ seq, pad: "" });
  return { seq, pad: "x".repeat(200 - bare.length) };
}

// "EV first_group groups first_seq count": calls publish(group, seq) for each event.
export function listen(publish) {
  const socket = createSocket("udp4");
  socket.on("message", (message) => {
    const [from, groups, first, count] = message.toString().split(" ").slice(1).map(Number);
    for (let group = from; group < from + groups; group++)
      for (let seq = first; seq < first + count; seq++) publish(group, seq);
  });
  socket.bind(port, "127.0.0.1");
}
