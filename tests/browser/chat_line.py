"""The server's end of the page's socket, played by a test: for what a real server rarely does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import pytest
from playwright.sync_api import Page, WebSocketRoute

T = TypeVar("T")
WITHIN_S = 10.0


class ChatLine:
    """Every socket that the page opens, and what it says on them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocketRoute] = []
        self.heard: list[dict[str, Any]] = []
        #: Close codes with which the next sockets are turned away, as soon as they are open.
        self.refusals: list[int] = []
        self.answers_pings = True
        self.pings = 0
        page.route_web_socket(re.compile(r"/ws/chat/"), self._opened)

    def _opened(self, socket: WebSocketRoute) -> None:
        if self.refusals:
            socket.close(code=self.refusals.pop(0))
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: self._hear(socket, json.loads(text)))

    def _hear(self, socket: WebSocketRoute, frame: dict[str, Any]) -> None:
        if frame["type"] == "ping":
            self.pings += 1
            if self.answers_pings:
                socket.send('{"type": "pong"}')
            return
        self.heard.append(frame)

    def say(self, type: str, /, **fields: Any) -> None:
        """Send a frame to the page."""
        self.sockets[-1].send(json.dumps({"type": type, **fields}, default=str))

    def close(self, code: int = 1006) -> None:
        """Close the page's socket. 1006 is no code that can be sent: then it is 3000, which means nothing."""
        self.sockets[-1].close(code=3000 if code == 1006 else code)

    def until(self, what: Callable[[], T]) -> T:
        """Return the first true value of ``what()``, letting the page go on meanwhile."""
        deadline = time.monotonic() + WITHIN_S
        while not (value := what()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {WITHIN_S} s; the page said {self.heard}")
            self.page.wait_for_timeout(10)
        return value

    def opened(self, count: int = 1) -> None:
        """Wait until the page has opened so many sockets."""
        self.until(lambda: len(self.sockets) >= count)

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Return the frame with which the page has said this ``count`` times."""
        return self.until(lambda: [frame for frame in self.heard if frame["type"] == kind][count - 1 :][:1])[0]

    def accept(self, run_id: UUID | str, message_id: UUID | str, *, count: int = 1, seq: int = 1) -> dict[str, Any]:
        """Accept the message that the page has sent; return it."""
        sent = self.wait_for("message", count)
        self.say(
            "run.accepted",
            run_id=run_id,
            seq=seq,
            client_id=sent["client_id"],
            text=sent["text"],
            message_id=message_id,
        )
        return sent
