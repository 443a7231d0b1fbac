"""Chromium without a window: what a page looks like to somebody who opens it.

It is spoken to in the DevTools protocol, of which few calls are needed; a driver for browsers would
bring a runtime of its own.
"""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse

from tests.testbed.part import Part
from tests.testbed.process import Server, TestbedError

PROGRAM: Final = "chromium"
_FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
)
_PHONE: Final = 600
_TIMEOUT: Final = ClientTimeout(total=60)


class Browser(Part):
    """`async with Browser(directory):` opens one page after the other, without scripts."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._numbers = itertools.count(1)
        self._socket: ClientWebSocketResponse | None = None
        self.requested: list[str] = []
        """What was fetched since the last `open`."""

    async def _start(self) -> None:
        program, data = shutil.which(PROGRAM), self.directory / "profile"
        if program is None:
            raise TestbedError(f"no {PROGRAM} on PATH: make packages")
        told = data / "DevToolsActivePort"

        async def ready() -> bool:
            return told.exists() and "/devtools/" in told.read_text()

        command = [program, *_FLAGS, f"--user-data-dir={data}", "about:blank"]
        server = Server(PROGRAM, command, directory=self.directory, ready=ready)
        await self._stack.enter_async_context(server)
        session = await self._stack.enter_async_context(ClientSession(timeout=_TIMEOUT))
        address = f"http://127.0.0.1:{told.read_text().split()[0]}"
        async with session.get(f"{address}/json/list") as answer:
            pages = [one for one in await answer.json() if one["type"] == "page"]
        url = pages[0]["webSocketDebuggerUrl"]
        self._socket = await self._stack.enter_async_context(session.ws_connect(url))
        await self._call("Network.enable")
        await self._call("Page.enable")

    async def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a page on a screen of that size, and wait until all of it is there."""
        phone = width < _PHONE  # which lays pages out by their viewport tag
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        await self._call("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", {"features": [feature]})
        await self._call("Emulation.setScriptExecutionDisabled", {"value": True})
        self.requested = []
        await self._call("Page.navigate", {"url": url}, until="Page.loadEventFired")

    async def ask(self, expression: str) -> object:
        """What an expression of JavaScript gives on the page."""
        answer = await self._call(
            "Runtime.evaluate", {"expression": expression, "returnByValue": True}
        )
        if "exceptionDetails" in answer:
            raise TestbedError(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    async def _call(
        self, method: str, params: Mapping[str, Any] | None = None, *, until: str | None = None
    ) -> Mapping[str, Any]:
        """The answer, once it and the event `until` have come."""
        assert self._socket is not None
        number, waiting = next(self._numbers), until
        answer: Mapping[str, Any] | None = None
        await self._socket.send_json({"id": number, "method": method, "params": params or {}})
        while answer is None or waiting is not None:
            said = await self._socket.receive_json(timeout=60)
            if said.get("method") == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            if said.get("method") == waiting:
                waiting = None
            if said.get("id") == number:
                if "error" in said:
                    raise TestbedError(f"{method}: {said['error']['message']}")
                answer = said["result"]
        return answer
