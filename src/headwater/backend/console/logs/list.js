/** A list of very many lines, of which only those in sight are in the page. */

import { el } from "../dom.js";

// Lines above and below what is in sight, so that scrolling shows no gaps.
const BEYOND = 12;
const BOTTOM = 24;

/**
 * `scroll` is the element that scrolls and `space` the list in it. `make(item)` gives a line's
 * element, in which `[data-toggle]` opens it; an open line is as high as it needs to be.
 */
export class LineList {
  following = true;
  #scroll;
  #space;
  #make;
  #onScroll;
  #lines = [];
  #shown = new Map(); // line -> element
  #open = new Map(); // line -> height beyond that of a closed one
  #height = 22;
  #frame = 0;
  #focus = null; // the line that the Tab key goes to
  #top = 0;

  constructor(scroll, space, make, onScroll) {
    this.#scroll = scroll;
    this.#space = space;
    this.#make = make;
    this.#onScroll = onScroll;
    scroll.addEventListener("scroll", () => this.#scrolled());
    space.addEventListener("keydown", (event) => this.#move(event));
    new ResizeObserver(() => {
      this.#measure();
      this.draw();
    }).observe(scroll);
    this.#measure();
  }

  get length() {
    return this.#lines.length;
  }

  get lines() {
    return this.#lines;
  }

  /** Show these lines in place of the last ones. */
  set(lines) {
    const open = this.#open;
    this.#lines = lines;
    this.#open = new Map([...open].filter(([line]) => lines.includes(line)));
    if (!lines.includes(this.#focus)) this.#focus = null;
    for (const element of this.#shown.values()) element.remove();
    this.#shown.clear();
    this.draw();
  }

  /** Lines came to the end; those in the array already. `gone` left at its beginning. */
  appended(gone = []) {
    if (gone.length) {
      let height = gone.length * this.#height;
      for (const line of gone) {
        height += this.#open.get(line) ?? 0;
        this.#open.delete(line);
        if (this.#focus === line) this.#focus = null;
      }
      // What is looked at stays where it is, though lines above it left.
      if (!this.following) this.#scroll.scrollTop -= height;
    }
    this.draw();
  }

  /** Older lines came to the beginning of the array; what is looked at stays where it is. */
  prepended(count) {
    this.#space.style.height = `${this.#offset(this.#lines.length)}px`;
    this.#scroll.scrollTop += count * this.#height;
    this.draw();
  }

  toEnd() {
    this.following = true;
    this.draw();
  }

  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  toggle(line, element) {
    if (this.#open.has(line)) this.#open.delete(line);
    else {
      this.following = false;
      this.#open.set(line, 0);
    }
    element.replaceWith(this.#element(line));
    this.#draw();
    this.#shown.get(line)?.querySelector("[data-toggle]").focus({ preventScroll: true });
  }

  isOpen(line) {
    return this.#open.has(line);
  }

  #draw() {
    const lines = this.#lines;
    this.#space.style.height = `${this.#offset(lines.length)}px`;
    if (this.following) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    const { scrollTop, clientHeight } = this.#scroll;
    this.#top = scrollTop;
    const first = Math.max(0, this.#at(scrollTop) - BEYOND);
    const last = Math.min(lines.length, this.#at(scrollTop + clientHeight) + BEYOND);
    const wanted = new Set(lines.slice(first, last));
    const focused = this.#space.contains(document.activeElement) ? this.#focus : null;
    if (focused) wanted.add(focused);
    for (const [line, element] of this.#shown) {
      if (wanted.has(line)) continue;
      element.remove();
      this.#shown.delete(line);
    }
    const fresh = [];
    for (const line of wanted) {
      if (!this.#shown.has(line)) fresh.push(this.#element(line));
    }
    this.#space.append(...fresh);
    this.#place(first, wanted);
    this.#tab(lines.at(-1));
  }

  /** Put each line at its height; open ones are measured first. */
  #place(first, wanted) {
    for (const [line, height] of this.#open) {
      const element = this.#shown.get(line);
      if (!element) continue;
      const now = Math.max(0, element.offsetHeight - this.#height);
      if (now !== height) this.#open.set(line, now);
    }
    this.#space.style.height = `${this.#offset(this.#lines.length)}px`;
    let top = this.#offset(first);
    let index = first;
    for (const line of wanted) {
      if (this.#lines[index] !== line) {
        index = this.#lines.indexOf(line);
        top = this.#offset(index);
      }
      const element = this.#shown.get(line);
      element.style.top = `${top}px`;
      element.setAttribute("aria-posinset", index + 1);
      element.setAttribute("aria-setsize", this.#lines.length);
      top += this.#height + (this.#open.get(line) ?? 0);
      index += 1;
    }
  }

  #element(line) {
    const element = this.#make(line, this.#open.has(line));
    const toggle = element.querySelector("[data-toggle]");
    toggle.tabIndex = line === this.#focus ? 0 : -1;
    toggle.addEventListener("focus", () => this.#tab(line, true));
    this.#shown.set(line, element);
    if (!element.isConnected) this.#space.append(element);
    return element;
  }

  /** Where a line begins: its place among equals, and what open ones above add. */
  #offset(index) {
    let top = index * this.#height;
    for (const [line, height] of this.#open) if (this.#indexOf(line) < index) top += height;
    return top;
  }

  /** The line at a height. */
  #at(top) {
    let added = 0;
    const open = [...this.#open].map(([line, height]) => [this.#indexOf(line), height]);
    for (const [place, height] of open.sort(([one], [other]) => one - other)) {
      const end = (place + 1) * this.#height + added + height;
      if (top < end - height) break;
      if (top < end) return place;
      added += height;
    }
    return Math.max(0, Math.floor((top - added) / this.#height));
  }

  #indexOf(line) {
    return this.#lines.indexOf(line);
  }

  #measure() {
    const cells = ["time", "level", "source", "message"].map((name) => el("span", { class: name }, "x"));
    const probe = el("div", { class: "line" }, el("div", { class: "summary" }, ...cells));
    this.#space.append(probe);
    this.#height = probe.offsetHeight || this.#height;
    probe.remove();
  }

  /** Only going up ends following: a panel that shrinks leaves the end out of sight too. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    if (scrollHeight - scrollTop - clientHeight < BOTTOM) this.following = true;
    else if (scrollTop < this.#top) this.following = false;
    this.#top = scrollTop;
    this.#onScroll();
    this.draw();
  }

  /** Arrow keys go from line to line, so that the whole log is one stop of the Tab key. */
  #move(event) {
    if (!event.target.matches("[data-toggle]")) return;
    const here = this.#indexOf(this.#focus);
    const page = Math.max(1, Math.floor(this.#scroll.clientHeight / this.#height) - 1);
    const last = this.#lines.length - 1;
    const next = {
      ArrowUp: here - 1,
      ArrowDown: here + 1,
      PageUp: here - page,
      PageDown: here + page,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      return event.target.click();
    }
    event.preventDefault();
    const line = this.#lines[Math.min(last, Math.max(0, next))];
    this.#show(line);
    this.#shown.get(line)?.querySelector("[data-toggle]").focus({ preventScroll: true });
  }

  #show(line) {
    const index = this.#indexOf(line);
    const top = this.#offset(index);
    const { scrollTop, clientHeight } = this.#scroll;
    this.following = index === this.#lines.length - 1;
    if (top < scrollTop) this.#scroll.scrollTop = top;
    else if (top + this.#height > scrollTop + clientHeight) {
      this.#scroll.scrollTop = top + this.#height - clientHeight;
    }
    this.#focus = line;
    this.#draw();
  }

  #tab(line, focused = false) {
    if (!focused && this.#focus && this.#space.contains(document.activeElement)) return;
    if (this.#focus === line) return;
    const toggle = (one) => this.#shown.get(one)?.querySelector("[data-toggle]");
    toggle(this.#focus)?.setAttribute("tabindex", "-1");
    this.#focus = line ?? null;
    toggle(line)?.setAttribute("tabindex", "0");
  }
}
