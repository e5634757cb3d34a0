/** A section of the administration: a table of a REST list, a form, and what went wrong. */

import { everything } from "../api.js";
import { el } from "../dom.js";

// Milliseconds in which a second press counts.
const SURE = 5_000;

export class Section {
  #body = el("div", { class: "scroll", tabIndex: 0, role: "group" });
  #said = el("p", { class: "said", role: "status" });
  #options;
  rows = [];
  onChange = () => {}; // called when something was changed here
  choices = []; // functions that fill selects from other lists
  #choice = null;
  #count = el("span", { class: "about" });

  /**
   * `options`: {title, path, collection, columns, form, empty, choice, live}. A column is
   * [name, cell(row), class]; `form` has {fields, label, send(values)}, a field being
   * [name, label, attributes or options]. `choice` is [label, options()]: `path` is then called
   * with what is chosen. A `wide` section takes the whole width, and a `live` section is loaded again and again while it is in sight.
   */
  constructor(options) {
    this.#options = options;
    const id = `admin-${options.title.toLowerCase().replace(/\W+/g, "-")}`;
    this.#body.setAttribute("aria-label", `Table: ${options.title}`);
    this.#body.hidden = !options.columns;
    this.element = el(
      "section",
      { class: options.wide ? "panel wide" : "panel", "aria-labelledby": id },
      el("header", {}, el("h2", { id }, options.title), this.#count, this.#choiceElement(options.choice)),
      this.#body,
      options.form ? this.#formElement(options.form) : null,
      this.#said,
    );
  }

  /** What is chosen at the top of the section. */
  get chosen() {
    return this.#choice?.value ?? "";
  }

  async load() {
    const { path, collection } = this.#options;
    const from = typeof path === "function" ? path(this.chosen) : path;
    if (!from) return;
    let rows;
    try {
      rows = await everything(from, collection);
    } catch (problem) {
      return this.say(problem.message, true);
    }
    // Another one may have been chosen meanwhile.
    if (typeof path === "function" && from !== path(this.chosen)) return;
    this.rows = rows;
    this.show();
  }

  /** Loads what changes by itself, if anybody sees it. */
  tick() {
    if (this.#options.live && !document.hidden && this.element.checkVisibility()) this.load();
  }

  /** A few words beside the title. */
  count(words) {
    this.#count.textContent = words;
  }

  /** Show what other sections have loaded meanwhile: names of teams, choices of a form. */
  refresh() {
    const before = this.chosen;
    for (const fill of this.choices) fill();
    if (this.chosen !== before) this.load();
    else if (this.rows.length) this.show();
  }

  show() {
    const { columns, empty, title } = this.#options;
    if (!this.rows.length) {
      this.#body.replaceChildren(el("div", { class: "note" }, el("p", {}, empty)));
      return;
    }
    const head = columns.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name));
    const rows = this.rows.map((row) =>
      el("tr", {}, ...columns.map(([, cell, kind], place) => cellElement(cell(row), place, kind))),
    );
    const caption = el("caption", { class: "sr-only" }, title);
    const table = el("table", {}, caption, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
    // Who is at a button of the table stays at it.
    const at = this.#body.contains(document.activeElement) && document.activeElement.ariaLabel;
    this.#body.replaceChildren(table);
    if (at) table.querySelector(`[aria-label="${CSS.escape(at)}"]`)?.focus();
  }

  /** Runs a change, says what went wrong, and shows the list as it is afterwards. */
  async act(change, done = "") {
    try {
      const words = await change();
      this.say(words ?? done);
    } catch (problem) {
      this.say(problem.message, true);
    }
    await this.load();
    this.onChange();
  }

  say(words, fault = false) {
    this.#said.classList.toggle("error", fault);
    this.#said.replaceChildren(...[words ?? ""].flat());
  }

  #choiceElement(choice) {
    if (!choice) return null;
    const [label, choices] = choice;
    const select = (this.#choice = el("select", { "aria-label": `${label}: ${this.#options.title}` }));
    select.addEventListener("change", () => this.load());
    this.choices.push(() => fill(select, choices));
    return el("div", { class: "controls" }, select);
  }

  #formElement({ fields, label, send }) {
    const inputs = fields.map(([name, words, more]) => {
      const choices = Array.isArray(more) || typeof more === "function";
      const input = choices
        ? el("select", { name, required: true })
        : el("input", { name, required: true, autocomplete: "off", ...more });
      if (choices) fill(input, more);
      return el("label", {}, el("span", {}, words), input);
    });
    const form = el("form", { class: "row" }, ...inputs, el("button", { type: "submit" }, label));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      this.act(async () => {
        const words = await send(values);
        for (const input of form.querySelectorAll("input")) input.value = "";
        return words;
      });
    });
    // Other lists may have changed since.
    for (const [name, , more] of fields) {
      if (typeof more !== "function") continue;
      form.elements[name].addEventListener("focus", () => fill(form.elements[name], more));
      this.choices.push(() => fill(form.elements[name], more));
    }
    return form;
  }
}

function fill(select, choices) {
  const { value } = select;
  const options = (typeof choices === "function" ? choices() : choices).map(([key, words]) =>
    el("option", { value: key }, words),
  );
  if (options.length === select.options.length && value) return;
  select.replaceChildren(...options);
  if (value) select.value = value;
}

function cellElement(content, place, kind) {
  const properties = place ? { class: kind } : { class: kind, scope: "row" };
  // The whole text where there is no room for it.
  if (typeof content === "string") properties.title = content;
  return el(place ? "td" : "th", properties, ...[content || ""].flat());
}

/** A button in a row. */
export function button(words, act, more = {}) {
  const element = el("button", { type: "button", class: "small", ...more }, words);
  element.addEventListener("click", act);
  return element;
}

/** The same for what cannot be undone: it is done at a second press, within some seconds. */
export function sureButton(section, words, act, label) {
  let timer = null;
  const ask = (question, asks) => {
    clearTimeout(timer);
    timer = asks ? setTimeout(() => ask("", false), SURE) : null;
    element.textContent = asks ? `${words}?` : words;
    element.classList.toggle("warns", asks);
    if (element.isConnected) section.say(question);
  };
  const press = () => {
    if (!timer) return ask(`${label}? Press again within ${SURE / 1_000} s.`, true);
    ask("", false);
    section.act(act);
  };
  const element = button(words, press, { "aria-label": label });
  return element;
}
