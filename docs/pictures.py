#!/usr/bin/env -S uv run
"""Take the pictures of the console in ``docs/pictures/`` anew, from the demo, with Chromium.

``uv run docs/pictures.py`` takes a minute: the demo's panels need some data to show.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent / "tests"), str(DOCS.parent / "tests" / "e2e" / "browser")]

from chromium import Chromium, Page, find  # noqa: E402 - found as said above

PICTURES = DOCS / "pictures"
READY = "document.querySelector('#overall').textContent.trim() === 'All 6 live'"
# Milliseconds in which new lines and reports come.
AWHILE = 12_000


def wait(page: Page, milliseconds: int) -> None:
    page.evaluate(f"new Promise((resolve) => setTimeout(() => resolve(1), {milliseconds}))")


def take(page: Page, name: str) -> None:
    path = PICTURES / f"{name}.webp"
    page.picture(path)
    sys.stdout.write(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size // 1024} KB\n")


def sign_in(page: Page, email: str, password: str) -> None:
    page.until("document.querySelector('#sign-in').checkVisibility()")
    page.choose("#email", email)
    page.choose("#password", password)
    page.press("#sign-in button[type=submit]")
    page.until(READY)


def pictures(browser: Chromium, address: str) -> None:
    page = browser.open(address, width=1280, height=800)
    page.prefer(color_scheme="light", reduced_motion="reduce")
    sign_in(page, "admin@example.com", "admin")
    page.choose("#question", "What happens when I reload?")
    page.press("#answers form button")
    wait(page, AWHILE)
    take(page, "live")
    page.press("#logs .controls button:last-child")
    wait(page, AWHILE // 3)
    take(page, "wire")
    page.press("#wire [data-close]")
    page.evaluate("void (location.hash = '#admin')")
    page.until("document.querySelectorAll('#admin .wide tbody tr').length > 3")
    wait(page, AWHILE // 3)
    take(page, "manage")
    page.prefer(color_scheme="dark", reduced_motion="reduce")
    page.evaluate("void (location.hash = '#live')")
    page.size(390, 844, phone=True)
    wait(page, AWHILE // 6)
    take(page, "phone")


def main() -> int:
    """Returns 1 without Chromium."""
    executable = find()
    if executable is None:
        sys.stderr.write("Chromium is not installed (apt install chromium).\n")
        return 1
    PICTURES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "headwater", "demo", "--port", "0"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert demo.stdout is not None
        address = next(
            found[0] for line in demo.stdout if (found := re.search(r"http://[\w.:]+", line))
        )
        with (
            tempfile.TemporaryDirectory() as profile,
            Chromium(executable, Path(profile)) as browser,
        ):
            pictures(browser, address)
    finally:
        demo.terminate()
        demo.wait(20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
