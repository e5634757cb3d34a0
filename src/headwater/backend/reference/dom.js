/** Elements without markup in strings: nothing that a document says can become markup. */

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Paragraphs, with `code` between backticks. */
export function prose(text) {
  const paragraphs = (text ?? "").split(/\n\s*\n/);
  return el("div", { class: "prose" }, ...paragraphs.map((one) => el("p", {}, ...inline(one))));
}

/** One line of prose, as nodes. */
export function inline(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}
