"""Firefox, driven by WebDriver BiDi: tabs and JavaScript, for what every browser must do."""

from __future__ import annotations

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

__all__ = ["Firefox", "FirefoxPage", "find"]

# A cold start makes a profile, which takes seconds on a busy machine.
STARTS_WITHIN = 90.0


def find() -> str | None:
    """The browser's executable, or None when there is none on this machine."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


class Firefox:
    """One running browser with a profile of its own. Use as a context manager."""

    def __init__(self, executable: str, profile: Path) -> None:
        self._process = subprocess.Popen(
            [
                *(executable, "--headless", "--no-remote", "--profile", str(profile)),
                *("--remote-debugging-port", "0", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile), "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
            start_new_session=True,
        )
        self._last = 0
        self._context: str | None = None
        try:
            self._socket = websocket.create_connection(
                self._address(profile / "WebDriverBiDiServer.json"),
                suppress_origin=True,
                timeout=120,
            )
            self.call("session.new", capabilities={})
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._socket.close()
        self._end()

    def renew(self) -> None:
        """Close all tabs and forget cookies and storage."""
        if self._context is not None:
            self.call("browser.removeUserContext", userContext=self._context)
        self._context = self.call("browser.createUserContext")["userContext"]

    def open(self, url: str | None = None) -> FirefoxPage:
        """A new tab, with ``url`` loaded if one is given."""
        if self._context is None:
            self.renew()
        made = self.call("browsingContext.create", type="tab", userContext=self._context)
        page = FirefoxPage(self, made["context"])
        if url is not None:
            page.go(url)
        return page

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a command and return its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._last:
                break
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _address(self, port_file: Path) -> str:
        """Where the browser listens; it writes that to a file once it does."""

        def found() -> str:
            code = self._process.poll()
            assert code is None, f"firefox ended at its start: {code}"
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                where = json.loads(port_file.read_text())
                return f"ws://{where['ws_host']}:{where['ws_port']}/session"
            return ""

        return str(waited(found, STARTS_WITHIN, lambda: "firefox did not start"))


class FirefoxPage(Scripted):
    """One tab."""

    def __init__(self, browser: Firefox, context: str) -> None:
        self._browser = browser
        self._context = context

    def go(self, url: str) -> None:
        """Load ``url``."""
        self._browser.call(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("browsingContext.close", context=self._context)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self._browser.call(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then((value) => JSON.stringify(value))",
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        text = answer["result"].get("value")
        return None if text is None else json.loads(text)
