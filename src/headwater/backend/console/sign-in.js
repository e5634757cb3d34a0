/** The sign-in form. */

import { request } from "./api.js";
import { el } from "./dom.js";

export class SignIn {
  #root;
  #form;
  #error;
  #button;
  #onDone;
  #countdown = null;

  constructor(root, onDone) {
    this.#root = root;
    this.#form = root.querySelector("form");
    this.#error = root.querySelector("[data-error]");
    this.#button = root.querySelector("button");
    this.#onDone = onDone;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  show(message = "") {
    const { email, password } = this.#form.elements;
    const fresh = this.#root.hidden;
    this.#root.hidden = false;
    this.#say(message);
    if (fresh) (email.value ? password : email).focus();
  }

  /** Name accounts that everybody may use: the demo's. */
  offer(accounts) {
    const list = this.#root.querySelector("[data-accounts]");
    list.hidden = accounts.length === 0;
    list.querySelector("div").replaceChildren(
      ...accounts.map(({ email, password }) => {
        const button = el("button", { type: "button" }, email, el("span", {}, ` / ${password}`));
        button.addEventListener("click", () => {
          this.#form.elements.email.value = email;
          this.#form.elements.password.value = password;
          this.#submit();
        });
        return button;
      }),
    );
  }

  hide() {
    this.#root.hidden = true;
    this.#form.elements.password.value = "";
  }

  async #submit() {
    const { email, password } = this.#form.elements;
    this.#button.disabled = true;
    this.#say("");
    try {
      const body = { email: email.value, password: password.value };
      await request("/api/auth/login", { method: "POST", body });
      this.#button.disabled = false;
      this.#onDone();
    } catch (problem) {
      this.#button.disabled = false;
      this.#explain(problem);
    }
  }

  #explain(problem) {
    if (problem.status === 429) return this.#count(problem.retryAfter ?? 60);
    this.#say(
      {
        0: "The server cannot be reached. Check the connection and try again.",
        401: "E-mail and password do not match.",
        422: "Enter an e-mail address and a password.",
      }[problem.status] ?? problem.message,
    );
    if (problem.status === 401) this.#form.elements.password.select();
  }

  /** Too many tries: say when the next one counts, and keep the button off until then. */
  #count(seconds) {
    this.#button.disabled = true;
    const end = Date.now() + seconds * 1_000;
    const step = () => {
      const left = Math.ceil((end - Date.now()) / 1_000);
      if (left > 0) return this.#show(`Too many tries. Try again in ${span(left)}.`);
      this.#say("");
      this.#button.disabled = false;
    };
    this.#say(`Too many tries. Try again in ${span(seconds)}.`);
    this.#countdown = setInterval(step, 1_000);
  }

  #say(message) {
    clearInterval(this.#countdown);
    this.#show(message);
  }

  #show(message) {
    this.#error.textContent = message;
  }
}

function span(seconds) {
  return seconds < 90 ? `${seconds} s` : `${Math.ceil(seconds / 60)} min`;
}
