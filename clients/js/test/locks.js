/** Web Locks, which Node lacks: exclusive ones, with `signal`, `ifAvailable` and `steal`. */

const held = new Map(); // name -> {free(), lost(error)}
const queues = new Map(); // name -> [{options, callback, resolve, reject}]

function request(name, options, callback) {
  return new Promise((resolve, reject) => {
    const wanted = { name, options, callback, resolve, reject };
    if (options.ifAvailable) return held.has(name) ? resolve(callback(null)) : grant(wanted);
    if (options.steal) {
      held.get(name)?.lost(new DOMException("stolen", "AbortError"));
      return grant(wanted);
    }
    const queue = queues.get(name) ?? [];
    queues.set(name, queue);
    queue.push(wanted);
    options.signal?.addEventListener("abort", () => {
      const place = queue.indexOf(wanted);
      if (place < 0) return;
      queue.splice(place, 1);
      reject(options.signal.reason);
    });
    queueMicrotask(() => next(name));
  });
}

function next(name) {
  if (held.has(name)) return;
  const wanted = queues.get(name)?.shift();
  if (wanted) grant(wanted);
}

async function grant({ name, callback, resolve, reject }) {
  const lock = { lost: reject };
  held.set(name, lock);
  try {
    resolve(await callback({ name }));
  } catch (error) {
    reject(error);
  }
  if (held.get(name) === lock) {
    held.delete(name);
    next(name);
  }
}

globalThis.navigator = { locks: { request } };

/** Takes a lock as a tab does that holds it and answers nobody; a function that lets it run again. */
export const freeze = (name) =>
  new Promise((resolve) => request(name, {}, () => new Promise((free) => resolve(free))).catch(() => {}));
