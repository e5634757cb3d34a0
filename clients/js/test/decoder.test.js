/** The shared event streams of clients/vectors.json, at every cut. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { Decoder } from "../headwater.js";

const vectors = JSON.parse(readFileSync(new URL("../../vectors.json", import.meta.url), "utf8"));

function decoded(pieces, before) {
  const decoder = new Decoder(before);
  const text = new TextDecoder("utf-8", { ignoreBOM: true });
  const events = [...pieces, null].flatMap((piece) =>
    decoder.push(piece ? text.decode(piece, { stream: true }) : text.decode()),
  );
  const named = events.map(({ name, data, id }) => ({ event: name, data, lastEventId: id }));
  return { events: named, lastEventId: decoder.lastEventId, retry: decoder.retry };
}

test.each(vectors.map((vector) => [vector.name, vector]))("%s", (_, vector) => {
  const { events, lastEventId, retry, before } = vector;
  const bytes = vector.base64 ? Buffer.from(vector.base64, "base64") : Buffer.from(vector.text);
  const expected = { events, lastEventId, retry };
  expect(decoded([bytes], before)).toEqual(expected);
  expect(decoded([...bytes].map((byte) => Uint8Array.of(byte)), before)).toEqual(expected);
  for (let cut = 1; cut < bytes.length; cut += 1) {
    expect(decoded([bytes.subarray(0, cut), bytes.subarray(cut)], before)).toEqual(expected);
  }
});

test("an event without end does not fill the memory", () => {
  const decoder = new Decoder();
  const piece = "data: " + "x".repeat(2 ** 22);
  expect(() => {
    for (let count = 0; count < 20; count += 1) decoder.push(piece);
  }).toThrow("longer than");
});
