"""A page in headless Chromium, asked over the DevTools protocol what it loaded."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
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
    from websockets.sync.client import connect

    program = chromium()
    assert program is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    options += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"]
    browser = subprocess.Popen([program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(profile / "DevToolsActivePort", browser)
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            return _look(_Session(socket), address, width, height)
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


class _Session:
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
        return found["result"].get("value")


def _look(session: _Session, address: str, width: int, height: int) -> Page:
    for domain in ("Network", "Page", "Log", "Runtime"):
        session.ask(f"{domain}.enable")
    session.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
    session.ask("Page.navigate", url=address)
    session.wait("Page.loadEventFired")
    page = Page()
    page.images = session.evaluate(
        "Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => [...document.images].map("
        "i => ({source: i.src.slice(0, 40), width: i.naturalWidth, complete: i.complete, alt: i.alt})))"
    )
    page.overflow = session.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.screenshot = base64.b64decode(session.ask("Page.captureScreenshot")["data"])
    for event in session.events:
        if event.get("method") == "Network.requestWillBeSent":
            page.requests.append(event["params"]["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            page.errors.append(event["params"]["entry"]["text"])
    return page
