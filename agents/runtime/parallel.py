"""Running things side by side, to a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agents.runtime.errors import ProgramError, RunError
from agents.runtime.failures import as_run_error, locate
from agents.runtime.ports import Superseded

T = TypeVar("T")


async def settle(tasks: Iterable[asyncio.Task[T]]) -> list[T]:
    """Wait for all the tasks and return their results in order.

    The first failure, or a cancellation from outside, cancels the others and waits for them; then it is raised. Of
    failures that came together the first in order counts.
    """
    tasks = list(tasks)
    if not tasks:
        return []
    first: list[asyncio.Task[T]] = []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        first = [task for task in tasks if task.done()]
    finally:
        rest = [task for task in tasks if not task.done()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        failures = {task: failure for task in tasks if (failure := _failure(task)) is not None}
    for task in first:
        if task in failures:
            raise failures[task]
    return [task.result() for task in tasks]


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    if task.cancelled():
        return ProgramError("A part of the program cancelled itself.")
    return task.exception()


async def contained(work: Callable[[], Awaitable[T]]) -> T:
    """Await ``work()``; anything it raises but a cancellation or `Superseded` becomes a RunError.

    A `SystemExit` would otherwise end the process from inside a task.
    """
    try:
        return await work()
    except ProgramError as error:
        locate(error)
        raise
    except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, Superseded, RunError):
        raise
    except BaseException as error:
        raise as_run_error(error) from error
