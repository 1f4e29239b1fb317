"""A page in headless Chromium, asked over the DevTools protocol what it loaded."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

START_SECONDS = 30


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Page:
    """What a page did.

    Attributes:
        requests: every address that it asked for.
        errors: messages of its console and policy violations.
        images: address (its first letters), width it loaded with, and alternative text, of every image.
        overflow: pixels by which the page is wider than the window.
        screenshot: PNG.
    """

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    overflow: int = 0
    screenshot: bytes = b""


def visit(address: str, profile: Path, width: int = 390, height: int = 844) -> Page:
    """Open a page in a window of that size, with every host name unresolvable."""
    with browsing(profile) as session:
        return _look(session, address, width, height)


@contextmanager
def browsing(profile: Path) -> Iterator[Session]:
    """A browser with an empty page, that can reach this machine only."""
    from websockets.sync.client import connect

    program = chromium()
    assert program is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    options += [f"--user-data-dir={profile}", "--disable-dev-shm-usage"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    browser = subprocess.Popen([program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(profile / "DevToolsActivePort", browser)
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as socket:
            yield Session(socket)
    finally:
        browser.terminate()
        browser.wait(timeout=20)


def _port(file: Path, browser: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and browser.poll() is None:
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.1)
    raise RuntimeError(f"chromium did not start (exit code {browser.poll()})")


class Session:
    """A page that is asked over the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number, self.events = socket, 0, list[dict[str, Any]]()

    def ask(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def wait(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=30)))

    def evaluate(self, expression: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, address: str, width: int, height: int, mobile: bool = False) -> None:
        """Go to a page, and return when it has loaded."""
        for domain in ("Network", "Page", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.ask("Emulation.setDeviceMetricsOverride", **window)
        self.events.clear()
        self.ask("Page.navigate", url=address)
        self.wait("Page.loadEventFired")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is neither null nor false nor empty."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"still {value!r}: {expression}"
            time.sleep(0.3)
        return value

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot")["data"])


def _look(session: Session, address: str, width: int, height: int) -> Page:
    session.open(address, width, height, mobile=True)
    page = Page()
    page.images = session.evaluate(
        "Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => [...document.images].map("
        "i => ({source: i.src.slice(0, 40), width: i.naturalWidth, complete: i.complete, alt: i.alt})))"
    )
    # A phone zooms out until everything fits, and its `innerWidth` grows with that.
    page.overflow = session.evaluate("document.documentElement.scrollWidth") - width
    page.screenshot = session.screenshot()
    for event in session.events:
        if event.get("method") == "Network.requestWillBeSent":
            page.requests.append(event["params"]["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            page.errors.append(event["params"]["entry"]["text"])
    return page
