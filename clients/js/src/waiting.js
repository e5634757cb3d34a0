/** Pauses, and the places that open streams take. */

// Milliseconds: soon enough for a restart, at most 10 s after a long outage.
const BACK_OFF = { first: 500, most: 10_000 };
// A longer timer would end at once.
const LONGEST = 2 ** 31 - 1;
// HTTP/1.1 allows six connections to a host over all tabs. One stays free for requests.
const SLOTS = 5;

/** Web Locks, where tabs can share: not where the browser refuses storage, as to a sandboxed frame. */
export const { locks } = (stores() && globalThis.navigator) || {};

function stores() {
  try {
    new BroadcastChannel("headwater").close(); // Firefox refuses it
    return globalThis.sessionStorage !== null; // others throw here; a worker has none
  } catch {
    return false;
  }
}

/** Milliseconds before another try: doubling, with jitter so that clients do not come together. */
export function backOff(failures) {
  const most = Math.min(BACK_OFF.most, BACK_OFF.first * 2 ** failures);
  return most / 2 + (Math.random() * most) / 2;
}

/** Waits; ends early when `signal` aborts. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted || !milliseconds) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, Math.min(milliseconds, LONGEST));
    signal.addEventListener("abort", done);
  });
}

/** Takes one of the places for streams; a function that frees it, or null when all are taken. */
export async function slot(url) {
  const [page] = globalThis.performance?.getEntriesByType?.("navigation") ?? [];
  const many = page?.nextHopProtocol && page.nextHopProtocol !== "http/1.1";
  if (!locks || many || url.origin !== globalThis.location?.origin) return () => {};
  for (let place = 0; place < SLOTS; place += 1) {
    const free = await new Promise((resolve) =>
      locks.request(`headwater:slot:${place}`, { ifAvailable: true }, (lock) =>
        lock ? new Promise((release) => resolve(release)) : resolve(null),
      ),
    );
    if (free) return free;
  }
  return null;
}

/** One after another over all tabs, so that the connection that stays free is free in between. */
export function turn() {
  return new Promise((resolve) =>
    locks.request("headwater:turn", () => new Promise((release) => resolve(release))),
  );
}
