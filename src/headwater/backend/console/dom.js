/** Small things about elements, text and time. */

/** An element: properties by name (`class`, `data-…` and `aria-…` as attributes), then children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name === "class" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const NUMBER = new Intl.NumberFormat();

export const clock = (iso) => CLOCK.format(new Date(iso));
export const number = (value) => NUMBER.format(value);

/** A size in the unit that reads best: "812 B", "4.2 KB", "17 MB". */
export function bytes(size) {
  let [unit, ...units] = ["B", "KB", "MB", "GB"];
  while (size >= 1_000 && units.length) [size, unit] = [size / 1_000, units.shift()];
  return `${NUMBER.format(size < 10 ? Math.round(size * 10) / 10 : Math.round(size))} ${unit}`;
}

/** How long ago, in the fewest words: "now", "12 s ago", "3 min ago". */
export function ago(iso) {
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1_000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** A <time> that shows how long ago, and goes on counting while it is in the page. */
export function agoTime(iso) {
  const title = FULL.format(new Date(iso));
  return el("time", { dateTime: iso, title, "data-ago": true }, ago(iso));
}

export function clockTime(iso) {
  return el("time", { dateTime: iso, title: FULL.format(new Date(iso)) }, clock(iso));
}

/** A <time> that shows the day. */
export function dayTime(iso) {
  const moment = new Date(iso);
  return el("time", { dateTime: iso, title: FULL.format(moment) }, DAY.format(moment));
}

export function keepCounting() {
  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      time.textContent = ago(time.dateTime);
    }
  }, 5_000);
}

/** Puts words on the clipboard, and says so on the button for a moment. */
export async function copy(words, button) {
  const label = button.textContent;
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    done = "Not allowed"; // browsers allow it on https and localhost only
  }
  button.textContent = done;
  setTimeout(() => (button.textContent = label), 1_500);
}

/** A code to type, with a button that copies it. */
export function command(words) {
  const button = el("button", { type: "button", class: "small" }, "Copy");
  button.addEventListener("click", () => copy(words, button));
  // A line ends between words, and not within the hyphens of an option.
  const parts = words.split(/(?<= )(?=--)|(?<=--\S+)(?= )/);
  const shown = parts.map((part) => (part.startsWith("--") ? el("span", { class: "option" }, part) : part));
  return el("span", { class: "command" }, el("code", {}, ...shown), button);
}

/** Whether a list is scrolled to where its newest entry is. */
export function atBottom(element) {
  return element.scrollHeight - element.scrollTop - element.clientHeight < 24;
}

/** What this browser remembers between visits; nothing where storage is blocked. */
export const memory = {
  get(name) {
    try {
      return localStorage.getItem(`headwater.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`headwater.${name}`, value);
    } catch {
      // Remembering is a comfort; the page works without.
    }
  },
};
