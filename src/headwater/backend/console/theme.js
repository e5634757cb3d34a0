/** Light, dark, or as the system has it; remembered by this browser. */

import { memory } from "./dom.js";

/** Sets the page up; `select` offers the choice. */
export function chooseTheme(select) {
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  select.value = memory.get("theme") ?? "system";
  if (!select.value) select.value = "system";
  show(select.value);
  select.addEventListener("change", () => {
    memory.set("theme", select.value);
    show(select.value);
  });
}
