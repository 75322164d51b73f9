"""Send one message: by mail, or to an address that apprise knows. Who is told of what, the apps above say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: Messages that a process sends at once. Each holds a thread while the other side takes its time.
AT_ONCE = 4
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="notify")


@dataclass(frozen=True, slots=True)
class Message:
    """What is said: a line, and plain text."""

    subject: str
    body: str


class NotSent(Exception):
    """The message was not taken. Its words hold no secret: they are kept with the job, and shown."""

    def __init__(self, detail: str, *, way: str, retriable: bool = True) -> None:
        super().__init__(detail)
        self.way, self.retriable = way, retriable

    def problem(self) -> dict[str, Any]:
        """Return it as the problem of a job."""
        return {
            "type": "/problems/not-delivered",
            "title": "A message was not delivered",
            "detail": str(self),
            "fingerprint": f"not-delivered:{self.way}",
            "retriable": self.retriable,
        }


async def in_thread(send: Callable[..., T], *args: Any) -> T:
    """Call what talks to the other side beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: send(*args))
