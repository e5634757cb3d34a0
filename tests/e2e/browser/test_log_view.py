"""The log view under load: 1,000 lines a second, 100,000 of them kept."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.soak]

RATE = 1_000
SECONDS = 60
# A first half of the lines that are kept, so that the list is long from the start.
BEFORE = 50
FRAMES = """() => {
  globalThis.frames = [];
  let last = performance.now();
  const look = (now) => {
    frames.push(now - last);
    last = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


@pytest.mark.timeout(600)
def test_a_thousand_lines_a_second_stay_smooth(console: Any, served: Any) -> None:
    kept = "Number(document.querySelector('[data-kept]').textContent.replace(/\\D/g, ''))"
    written = 0

    def write(count: int) -> None:
        nonlocal written
        served.log(*[f"line {written + number}" for number in range(count)])
        written += count

    for _ in range(BEFORE):
        write(RATE)
    console.until(f"{kept} === {written}", 120)
    console.run(FRAMES)
    writer = threading.Thread(target=_each_second, args=(lambda: write(RATE), SECONDS))
    writer.start()
    while writer.is_alive():
        console.evaluate("1")
        time.sleep(1)  # the pace at which the page is asked
    newest = f"document.querySelector('#logs-list').innerText.includes('line {written - 1}')"
    console.until(f"{newest} && {kept} >= Math.min({written}, 100000)", 60)
    frames = sorted(console.evaluate("frames"))
    memory = console.evaluate("performance.memory.usedJSHeapSize") / 1e6
    p50, p99 = (frames[int(len(frames) * share)] for share in (0.5, 0.99))
    print(f"{written} lines, frame p50 {p50:.1f} ms, p99 {p99:.1f} ms, heap {memory:.0f} MB")
    assert p99 < 100
    assert memory < 400


def _each_second(act: Any, times: int) -> None:
    began = time.monotonic()
    for number in range(times):
        act()
        time.sleep(max(0.0, began + number + 1 - time.monotonic()))
