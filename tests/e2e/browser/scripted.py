"""What tests do with a tab of any browser: run JavaScript in it, and wait."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from typing import Any

__all__ = ["Scripted"]

# An expression that throws, such as of an element that is not there yet, counts as not yet.
AWAIT = """(milliseconds) => new Promise((resolve) => {
  const end = Date.now() + milliseconds;
  const look = () => {
    let met = false;
    try { met = Boolean(%s); } catch { /* not yet */ }
    if (met || Date.now() > end) resolve(met);
    else setTimeout(look, 20);
  };
  look();
})"""
CHOOSE = """(selector, value) => {
  const element = document.querySelector(selector);
  element.value = value;
  element.dispatchEvent(new Event("input", { bubbles: true }));
  element.dispatchEvent(new Event("change", { bubbles: true }));
}"""


class Scripted:
    """A tab that evaluates expressions."""

    @abstractmethod
    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""

    def run(self, function: str, *arguments: Any) -> Any:
        """Call a JavaScript function with JSON arguments; its value."""
        return self.evaluate(f"({function})(...{json.dumps(arguments)})")

    def until(self, condition: str, timeout: float = 20.0) -> None:
        """Wait, in the page, until an expression is truthy.

        An expression that throws counts as not yet. Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                met = self.run(AWAIT % condition, round(left * 1000))
            except RuntimeError:
                continue  # the page was left for another while it waited
            if met:
                return
        raise TimeoutError(f"not within {timeout} s: {condition}\n{self.text()[:600]}")

    def text(self) -> str:
        """The text that the page shows."""
        return str(self.evaluate("document.body.innerText"))

    def press(self, selector: str) -> None:
        """Click the element."""
        self.run("(selector) => document.querySelector(selector).click()", selector)

    def choose(self, selector: str, value: str) -> None:
        """Set the value of an input or select, as a user's choice."""
        self.run(CHOOSE, selector, value)
