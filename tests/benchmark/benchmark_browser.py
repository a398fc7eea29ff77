"""A headless Chromium that tests load pages into, ask in JavaScript and type into, over its debugging pipe."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark_tools import require

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
PATIENCE = 120.0
"""Seconds without a word from the browser after which it is given up."""


class Browser:
    """One tab; `complaints` are what its console told since it was opened."""

    complaints: list[str]
    _session: dict[str, str]

    def __init__(self, to: int, out: int) -> None:
        self._to, self._out, self._heard, self._number, self._session = to, out, bytearray(), 0, {}
        self._loaded, self.complaints = False, []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        found = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": found}
        for domain in ("Page", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def load(self, page: Path) -> None:
        """Loads a page, pictures and scripts included."""
        self._loaded = False
        self._call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._hear()

    def ask(self, expression: str) -> Any:
        """Returns the value of an expression in JavaScript, awaited; the page's policy does not hold for it."""
        told = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses and releases keys, as a keyboard does."""
        for key in keys:
            told: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self._call("Input.dispatchKeyEvent", type="keyDown", **told, **({"text": "\r"} if key == "Enter" else {}))
            self._call("Input.dispatchKeyEvent", type="keyUp", **told)

    def show(self, width: int, scheme: str) -> None:
        """Sets the window's width in pixels, and the colour scheme ("light", "dark") that the reader prefers."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        preferred = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=preferred)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._hear()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _hear(self) -> dict[str, Any]:
        """Returns the next message, and takes note of what it tells."""
        while b"\0" not in self._heard:
            assert select.select([self._out], [], [], PATIENCE)[0], "the browser is silent"
            more = os.read(self._out, 1 << 16)
            assert more, "the browser ended"
            self._heard += more
        told, _, self._heard = self._heard.partition(b"\0")
        message: dict[str, Any] = json.loads(told)
        method, parameters = message.get("method"), message.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        return message


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """Opens a browser, or skips the test where there is none.

    Args:
        profile: An empty folder.
    """
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        require("OFFDYN_REQUIRE_AXE", "no Chromium")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, f"--user-data-dir={profile}"]
    (theirs, to), (out, back) = os.pipe(), os.pipe()
    pipes = f'exec "$@" 3<&{theirs} 4>&{back}'
    command = ["bash", "-c", pipes, "bash", binary, *flags, "--remote-debugging-pipe"]
    process = subprocess.Popen(command, pass_fds=(theirs, back), stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(back)
    try:
        yield Browser(to, out)
    finally:
        os.close(to)
        os.close(out)
        process.kill()
        process.wait()
