/** The time axis of a chart: which moments are marked, and how they are written. */

const MINUTE = 60_000;
const STEPS = [0.5, 1, 2, 3, 5, 10, 15, 30, 60, 120, 240, 360].map((minutes) => minutes * MINUTE);
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECONDS = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** The marks between two moments, about `count` of them: {at, words}. */
export function marks(from, to, count) {
  const step = STEPS.find((one) => (to - from) / one <= count) ?? STEPS.at(-1);
  const zone = new Date(to).getTimezoneOffset() * MINUTE; // so that marks are round local times
  const found = [];
  for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) {
    found.push({ at, words: (step < MINUTE ? SECONDS : TIME).format(at) });
  }
  return found;
}

/** The runs of points between which none is missing: a gap is shown as one. */
export function unbroken(points) {
  const steps = points.slice(1).map((point, index) => point.at - points[index].at);
  const usual = [...steps].sort((one, other) => one - other)[Math.floor(steps.length / 2)] ?? 0;
  const runs = points.length ? [[points[0]]] : [];
  steps.forEach((step, index) => {
    if (step > Math.max(10_000, usual * 5)) runs.push([]);
    runs.at(-1).push(points[index + 1]);
  });
  return runs;
}

/** The next round figure above `value`, so that the scale seldom jumps. */
export function roundedUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 3, 5, 10].find((step) => step * power >= value);
}
