"""An event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Looks at what is ready. Where a real loop would wait for a timer, it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        #: Functions in threads: time stands still until they are done.
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (self.threads and timeout > 0):
            ready: list[tuple[selectors.SelectorKey, int]] = super().select(10)
            if not ready:
                raise RuntimeError("the loop waits for something that nothing will do")
            return ready
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time passes when everybody waits."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        def done(future: asyncio.Future[T]) -> None:
            self._jumping.threads -= 1

        self._jumping.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(done)
        return future


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine in virtual time, which moves when all of it waits for timers."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
