// Plays cases with AG-UI's own client, and prints what each agent shows.
//
// node ag_ui.mjs URL CASES: a case is {name, ask, cut}; the server cuts the answer to the first
// request of a case after `cut` frames. Cases run at once.
import { HttpAgent } from "@ag-ui/client";
import { ResumableAgent } from "./ag-ui.js";

const withoutConsole = { debug() {}, error() {}, log() {}, warn() {} };
Object.assign(console, withoutConsole);

// The client's reader throws what it reports already.
process.on("uncaughtException", () => {});

async function attempt(work) {
  let outcome = null;
  let error = null;
  let custom = [];
  const subscriber = {
    onRunFinishedEvent: ({ event }) => void (outcome = event.outcome?.type ?? "success"),
    onRunErrorEvent: ({ event }) => void (error = `${event.code}: ${event.message}`),
    onCustomEvent: ({ event }) => void custom.push([event.name, event.value]),
  };
  try {
    const { result } = await work(subscriber);
    return { outcome, error, custom, result: result ?? null };
  } catch (thrown) {
    return { outcome, error: error ?? String(thrown.message), custom };
  }
}

const said = (agent) =>
  agent.messages.slice(1).map(({ role, content, toolCalls }) => ({
    role,
    content: content ?? null,
    calls: (toolCalls ?? []).map((call) => [call.function.name, call.function.arguments]),
  }));

async function play(url, { name, ask, cut, plain, path = "/agent" }) {
  let requests = 0;
  const agent = new (plain ? HttpAgent : ResumableAgent)({
    url: `${url}${path}`,
    threadId: name,
    initialMessages: [{ id: "q", role: "user", content: ask }],
    fetch: (address, init) =>
      fetch(address, {
        ...init,
        headers: { ...init.headers, ...(requests++ === 0 && cut !== undefined ? { "x-cut": String(cut) } : {}) },
      }),
  });
  const first = { ...(await attempt((subscriber) => agent.runAgent({}, subscriber))), said: said(agent) };
  if (plain) return { name, first };
  const resumed = { ...(await attempt((subscriber) => agent.connectAgent({}, subscriber))), said: said(agent) };
  return { name, first, resumed };
}

const [url, cases] = process.argv.slice(2);
const results = await Promise.all(JSON.parse(cases).map((one) => play(url, one)));
process.stdout.write(JSON.stringify(results));
