"""Running a program to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agents.runtime.branches import enter_task
from agents.runtime.context import RunContext
from agents.runtime.errors import Misuse, OutputTooLarge, ProgramError, RunError, WallClockExceeded
from agents.runtime.meter import Totals
from agents.runtime.parallel import contained
from agents.runtime.parking import RunParked
from agents.runtime.plain import canonical, plain
from agents.runtime.ports import Superseded
from agents.runtime.types import Reply

log = logging.getLogger(__name__)

Program = Callable[[RunContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a program returned, as plain JSON, and what the run has used over all its claims."""

    output: Any
    totals: Totals


async def execute(program: Program, ctx: RunContext) -> RunResult:
    """Run the program with the context, under its wall clock.

    A `Reply` that it returns becomes `Reply.as_output()`. When this is cancelled, or the time is up, the program is
    cancelled; whatever it then calls on ``ctx`` is refused, and only a step that has finished is still written down.

    Raises:
        RunError: the run failed. Anything else that the program raised is a ProgramError with a fingerprint.
        RunParked: nothing in it can go on before a wait is over.
        Superseded: another process owns the run.
    """
    task = asyncio.create_task(_main(program, ctx))
    quiet = asyncio.create_task(ctx.parking.quiet.wait())
    try:
        await asyncio.wait({task, quiet}, timeout=max(0.0, ctx.left_s()), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError as error:
        ctx.gate.stop(error)
        await _unwind(task, ctx)
        raise
    finally:
        quiet.cancel()
    if not task.done() and ctx.parking.quiet.is_set():
        waits = ctx.parking.waits
        ctx.gate.stop(asyncio.CancelledError("The run is parked."))
        await _unwind(task, ctx)
        raise RunParked(waits)
    if not task.done():
        ctx.gate.stop(asyncio.CancelledError("The time is up."))
        await _unwind(task, ctx)
        if isinstance(ctx.gate.stopped, RunError | Superseded):
            raise ctx.gate.stopped  # which the program swallowed
        raise WallClockExceeded(
            f"The run took longer than {ctx.limits.wall_clock_s:g} s. Its finished steps are kept.",
            limit_s=ctx.limits.wall_clock_s,
        )
    stopped = ctx.gate.stopped
    ctx.gate.stop(Misuse("The run is over."))
    failure = None if task.cancelled() else task.exception()
    if isinstance(stopped, RunError | Superseded):
        raise stopped  # even if the program caught it and went on
    if task.cancelled():
        raise ProgramError("The program cancelled itself.")
    if failure is not None:
        raise failure
    return RunResult(task.result(), ctx.totals)


async def _main(program: Program, ctx: RunContext) -> Any:
    async def work() -> Any:
        ctx.meter.restore(await ctx.recorder.open())
        output = await program(ctx)
        await ctx.recorder.flush(ctx.gate.root)
        output = plain(output.as_output() if isinstance(output, Reply) else output, "The program's output")
        size, most = len(canonical(output)), ctx.options.max_output_bytes
        if size > most:
            raise OutputTooLarge(f"The program's output has {size:,} bytes; {most:,} are allowed.")
        return output

    enter_task(ctx.gate.root)
    return await contained(work)


async def _unwind(task: asyncio.Task[Any], ctx: RunContext) -> None:
    """Cancel the program and wait for it, but not for ever."""
    task.cancel()
    await asyncio.wait({task}, timeout=ctx.options.unwind_s)
    if not task.done():
        log.error("A program does not stop", extra={"action": "program_stuck", "run": ctx.run_id})
    elif not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain of it
