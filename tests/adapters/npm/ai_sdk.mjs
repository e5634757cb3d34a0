// Plays cases with useChat's own class and transport, and prints what each chat shows.
//
// node ai_sdk.mjs URL CASES: a case is {name, version, ask, cut}; the server cuts the answer to the
// first request of a case after `cut` frames. Cases run at once.
import { AbstractChat as Chat6, DefaultChatTransport as Transport6 } from "ai6";
import { AbstractChat as Chat7, DefaultChatTransport as Transport7 } from "ai7";

const versions = { 6: [Chat6, Transport6], 7: [Chat7, Transport7] };

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) =>
    (this.messages = this.messages.map((old, at) => (at === index ? message : old)));
  snapshot = (value) => structuredClone(value);
}

function shown(chat) {
  const answers = chat.messages.filter((message) => message.role === "assistant");
  return {
    status: chat.status,
    error: chat.error?.message ?? null,
    answers: answers.length,
    id: answers.at(-1)?.id ?? null,
    parts: answers.flatMap((answer) => answer.parts).filter((part) => part.type !== "step-start"),
  };
}

async function play(url, { name, version, ask, cut }) {
  const [AbstractChat, Transport] = versions[version];
  class Chat extends AbstractChat {
    constructor(init) {
      super({ ...init, state: new State() });
    }
  }
  const data = [];
  let requests = 0;
  const transport = new Transport({
    api: `${url}/chat`,
    headers: () => (requests++ === 0 && cut !== undefined ? { "x-cut": String(cut) } : {}),
  });
  const chat = new Chat({ id: name, transport, onError: () => {}, onData: (part) => data.push(part) });
  await chat.sendMessage({ text: ask });
  const first = shown(chat);
  await chat.resumeStream();
  return { name, first, resumed: shown(chat), data };
}

const [url, cases] = process.argv.slice(2);
const results = await Promise.all(JSON.parse(cases).map((one) => play(url, one)));
process.stdout.write(JSON.stringify(results));
