/** The types as an application uses them; what must not compile says so. */

import { followRun, follow, keyed, list, type State } from "headwater";

interface Log {
  id: string;
  level: string;
}

const feed = follow<Log, { id: string }>("/api/logs", {
  onSnapshot: (items, page) => items.map((log) => log.level.length + (page.has_more ? 1 : 0)),
  onItem: (log, { id }) => log.level + id,
  onRemoved: ({ id }) => id,
  onReset: (reason) => reason === "expired",
  onState: (state: State, { status }) => `${state} ${status?.toFixed()}`,
  onSignIn: async (status) => status === 401 && "anew",
  headers: async () => ({ Authorization: "Bearer key" }),
  // @ts-expect-error: a feed has an address, no number
  after: 1,
});
feed.reconnect({ wait: 1_000 });
// @ts-expect-error: the state is the feed's own
feed.state = "live";

for await (const change of feed) {
  if (change.type === "item") change.item.level.length;
  // @ts-expect-error: only an item has one
  change.item;
}

const size: number = keyed<Log>("/api/clients", { key: ["user", "client"] }).items.size;
const newest: Log | undefined = list<Log>("/api/logs", { keep: 10, onChange: (logs) => logs.length }).items.at(-1);
export { newest, size };

const run = followRun("/api/answers/7", {
  onChange: ({ text, state }) => console.log(text.length, state === "done"),
  onEvent: (name, data) => console.log(name, data),
});
run.ended.then(({ state, result, error }) => console.log(state, result, error));
run.close();
