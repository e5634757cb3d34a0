"""Chromium, driven through its DevTools protocol: pages, JavaScript, conditions, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

import websocket
from scripted import Scripted

from support.until import waited

__all__ = ["Chromium", "Page", "find"]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]
# A cold start on a busy machine takes seconds; only a broken one takes this long.
STARTS_WITHIN = 60.0


def find() -> str | None:
    """The browser's executable, or None when there is none on this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One running browser with a profile of its own. Use as a context manager."""

    def __init__(self, executable: str, profile: Path) -> None:
        # In a session of its own, so that its children can be ended with it.
        self._process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._last = 0
        self._pages: dict[str, Page] = {}
        self._context: str | None = None
        try:
            self._socket = websocket.create_connection(
                self._address(profile / "DevToolsActivePort"), suppress_origin=True
            )
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def renew(self) -> None:
        """Close all tabs and forget cookies, storage and workers."""
        if self._context is not None:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._pages.clear()
        self._context = self.call("Target.createBrowserContext")["browserContextId"]

    def open(self, url: str | None = None, *, width: int = 1440, height: int = 900) -> Page:
        """A new tab, with ``url`` loaded if one is given.

        Tabs share cookies, storage and workers until ``renew``.
        """
        if self._context is None:
            self.renew()
        target = self.call(
            "Target.createTarget",
            url="about:blank",
            newWindow=True,
            browserContextId=self._context,
        )["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.size(width, height)
        if url is not None:
            page.go(url)
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Run a command and return its result; what pages report meanwhile is noted."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._last:
                break
            if page := self._pages.get(answer.get("sessionId", "")):
                page.note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the browser and all its processes."""
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self.call("Browser.close")
        self._socket.close()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _address(self, port_file: Path) -> str:
        """Where the browser listens; it writes that to a file once it does."""

        def found() -> str:
            code = self._process.poll()
            assert code is None, f"chromium ended at its start: {code}"
            with contextlib.suppress(FileNotFoundError, ValueError):
                port, path = port_file.read_text().split("\n")
                return f"ws://127.0.0.1:{port}{path}"
            return ""

        return str(waited(found, STARTS_WITHIN, lambda: "chromium did not start"))


class Page(Scripted):
    """One tab.

    Attributes:
        faults: uncaught exceptions and errors of the console, such as a breach of the content
            security policy.
        failed: requests that failed, as the console shows them; tests cause some on purpose.
    """

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self.faults: list[str] = []
        self.failed: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a DevTools command in this tab."""
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Load ``url``."""
        self.evaluate("globalThis.left = true")
        self.call("Page.navigate", url=url)
        self.until("!globalThis.left && document.readyState === 'complete'")

    def reload(self) -> None:
        """Load the page again; what is asked from then on is asked of the new document."""
        self.evaluate("globalThis.left = true")
        self.call("Page.reload")
        self.until("!globalThis.left && document.readyState === 'complete'")

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set the size of the page in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefer(self, **features: str) -> None:
        """Set media features: ``prefer(color_scheme="dark", reduced_motion="reduce")``."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": f"prefers-{name.replace('_', '-')}", "value": value}
                for name, value in features.items()
            ],
        )

    def type(self, text: str) -> None:
        """Write text where the focus is, as from a keyboard."""
        self.call("Input.insertText", text=text)

    def key(self, name: str) -> None:
        """Press a key: ``Tab`` or ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[name]
        pressed = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if name == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if fault := answer.get("exceptionDetails"):
            raise RuntimeError(fault.get("exception", {}).get("description", fault["text"]))
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Save what the tab shows, as a PNG or WebP file by its name."""
        how = {"format": "webp", "quality": 70} if path.suffix == ".webp" else {"format": "png"}
        data = self.call("Page.captureScreenshot", **how)["data"]
        path.write_bytes(base64.b64decode(data))

    def note(self, message: dict[str, Any]) -> None:
        """Take what the tab reports by itself."""
        params = message["params"]
        if message["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        elif message["method"] == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] == "error":
                found = self.failed if entry["source"] == "network" else self.faults
                found.append(f"{entry['text']} {entry.get('url', '')}")
