/** A section of the administration: a table of a REST list, a form, and what went wrong. */

import { everything } from "../api.js";
import { el } from "../dom.js";

export class Section {
  #body = el("div", { class: "scroll", tabIndex: 0, role: "group" });
  #said = el("p", { class: "said", role: "status" });
  #options;
  rows = [];
  onChange = () => {}; // called when something was changed here
  choices = []; // functions that fill selects from other lists

  /**
   * `options`: {title, path, collection, columns, form, empty}. A column is [name, cell(row)];
   * `form` has {fields, label, send(values)}, a field being [name, label, attributes or options].
   */
  constructor(options) {
    this.#options = options;
    const id = `admin-${options.title.toLowerCase().replace(/\W+/g, "-")}`;
    this.#body.setAttribute("aria-label", `Table: ${options.title}`);
    this.#body.hidden = !options.columns;
    this.element = el(
      "section",
      { class: "panel", "aria-labelledby": id },
      el("header", {}, el("h2", { id }, options.title)),
      this.#body,
      options.form ? this.#formElement(options.form) : null,
      this.#said,
    );
  }

  async load() {
    const { path, collection } = this.#options;
    if (!path) return;
    try {
      this.rows = await everything(path, collection);
    } catch (problem) {
      return this.say(problem.message);
    }
    this.show();
  }

  /** Show what other sections have loaded meanwhile: names of teams, choices of a form. */
  refresh() {
    for (const fill of this.choices) fill();
    if (this.rows.length) this.show();
  }

  show() {
    const { columns, empty, title } = this.#options;
    if (!this.rows.length) {
      this.#body.replaceChildren(el("div", { class: "note" }, el("p", {}, empty)));
      return;
    }
    const head = columns.map(([name]) => el("th", { scope: "col" }, name));
    const rows = this.rows.map((row) =>
      el("tr", {}, ...columns.map(([, cell], place) => cellElement(cell(row), place))),
    );
    const caption = el("caption", { class: "sr-only" }, title);
    const table = el("table", {}, caption, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
    this.#body.replaceChildren(table);
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

function cellElement(content, place) {
  const tag = place ? "td" : "th";
  return el(tag, place ? {} : { scope: "row" }, ...[content ?? ""].flat());
}

/** A button in a row. */
export function button(words, act, more = {}) {
  const element = el("button", { type: "button", class: "small", ...more }, words);
  element.addEventListener("click", act);
  return element;
}
