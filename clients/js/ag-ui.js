// An HttpAgent of AG-UI whose runs can be resumed: npm install @ag-ui/client
//
//   const agent = new ResumableAgent({ url: "/agent", threadId });
//   await agent.runAgent();       // POST /agent
//   await agent.connectAgent();   // POST /agent/connect: the active run, from its start
//
// HttpAgent has no connect(), and takes a connection that ends early for the end of the run.
import { HttpAgent, runHttpRequest, transformHttpEventStream } from "@ag-ui/client";
import { EMPTY, concat, defer, tap, throwError } from "rxjs";

export class ResumableAgent extends HttpAgent {
  run(input) {
    return whole(super.run(input));
  }

  connect(input) {
    const ask = () => this.fetch(`${this.url}/connect`, this.requestInit(input));
    return whole(transformHttpEventStream(runHttpRequest(ask)));
  }
}

// The events of a run, which must end as the protocol says. None: nothing is active.
function whole(events) {
  let last;
  const seen = events.pipe(tap(({ type }) => void (last = type)));
  const ends = [undefined, "RUN_FINISHED", "RUN_ERROR"];
  const early = () => throwError(() => new Error("the connection ended before the run did"));
  return concat(seen, defer(() => (ends.includes(last) ? EMPTY : early())));
}
