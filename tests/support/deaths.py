"""Kill this process at a named boundary: for tests of what a crash leaves behind.

A process dies so if its environment says where. What runs in production knows nothing of it, and what is patched is
imported only by a process that is to die.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from typing import Any

from jobs.script import Script

#: The environment variable that names the boundary.
DIE_AT = "TEST_DIE_AT"


def die(*args: object, **kwargs: object) -> None:
    """Die as by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def here(boundary: str) -> None:
    """Die if this is where the process is to die. Handlers of tests call it."""
    if os.environ.get(DIE_AT) == boundary:
        die()


def arm() -> None:
    """Make this process die where its environment says, if it says so."""
    boundary = os.environ.get(DIE_AT)
    if boundary in ARMS:
        # Idle slots do not look: the first job comes by its message.
        _replace("jobs.lane_worker", "LOOK_S", lambda _: float("inf"))
        ARMS[boundary]()


def _replace(module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(old)`` in the place of a module's, or its class's, attribute."""
    owner: Any = importlib.import_module(module)
    *classes, name = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    setattr(owner, name, make(getattr(owner, name)))


def _then_die(script: Callable[..., Script[Any]]) -> Callable[..., Script[Any]]:
    """Die after the last statement of a script that did something, before its commit."""

    def wrapped(*args: Any) -> Script[Any]:
        result = yield from script(*args)
        if result:
            die()
        return result

    return wrapped


def _die_after(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*args: Any, **kwargs: Any) -> None:
        await function(*args, **kwargs)
        die()

    return wrapped


def _stop_before(function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)  # until somebody lets it go on
        await function(*args, **kwargs)

    return wrapped


#: What happens between a message and the end of its job, in order, but for what handlers do.
ARMS: dict[str, Callable[[], None]] = {
    "after pop": lambda: _replace("jobs.lane_worker", "LaneWorker.execute_job", lambda _: die),
    "in claim": lambda: _replace("jobs.host", "claim_some", _then_die),
    "after claim": lambda: _replace("jobs.runner", "Runner.start", lambda _: die),
    "before finish": lambda: _replace("jobs.runner", "finish", lambda _: die),
    "in finish": lambda: _replace("jobs.runner", "finish", _then_die),
    "after finish": lambda: _replace("jobs.runner", "persist", _die_after),
    "before effect": lambda: _replace("agents.effect_ledger", "RunLedger.begin", lambda _: die),
    "after effect": lambda: _replace("agents.effect_ledger", "RunLedger.end", lambda _: die),
    "stalled after effect": lambda: _replace("agents.effect_ledger", "RunLedger.end", _stop_before),
    "after ledger": lambda: _replace("agents.effect_ledger", "RunLedger.end", _die_after),
}
