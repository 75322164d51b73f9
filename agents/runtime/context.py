"""What a program is given: ordinary Python whose awaits on it are journaled."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from agents.runtime.answering import Answer, Streaming
from agents.runtime.approving import Approving
from agents.runtime.asking import Asker, Attempts, Question, Send
from agents.runtime.branches import Branch, Gate, Slot, enter_task
from agents.runtime.calling import Caller
from agents.runtime.drafting import Ask, Choice, Drafter, identity, outline
from agents.runtime.effects import Ledger, MemoryLedger
from agents.runtime.errors import StepFailed
from agents.runtime.failures import as_run_error
from agents.runtime.meter import Meter, Totals
from agents.runtime.parallel import contained, settle
from agents.runtime.parking import Parking, Room, wait_key
from agents.runtime.plain import plain
from agents.runtime.plans import ChangesRequested, Gatekeeper, OpenGate, Plan, PlannedCall, as_plan
from agents.runtime.ports import (
    Journal,
    ModelPort,
    NullTransport,
    StepKind,
    ToolBox,
    Transport,
    Waiting,
    WaitKind,
)
from agents.runtime.recorder import Done, Recorder, problem
from agents.runtime.shielding import Shielded
from agents.runtime.types import AgentSpec, Limits, ModelCall, Reply, ToolCall, ToolResult, Usage
from agents.runtime.verifying import DRAFT, VERIFY, Check, Verdict, text_after
from agents.runtime.verifying import summary as verdict_summary

#: A hundred years: what is longer is a mistake. Seconds.
MAX_SLEEP_S = 100 * 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Options:
    """What the site sets for every run."""

    #: Batchable tool calls of one turn that run side by side (`tools.batching.maxBatchSize`).
    max_batch_size: int = 8
    #: Of one step, in bytes of JSON.
    max_output_bytes: int = 4 * 1024 * 1024
    attempts: Attempts = field(default_factory=Attempts)
    streaming: Streaming = field(default_factory=Streaming)
    #: Of one model request that is not streamed.
    request_timeout_s: float = 120.0
    #: How long a program may take to unwind once it is stopped.
    unwind_s: float = 5.0
    #: Runs the synchronous functions given to `ctx.step`; None is the loop's own.
    executor: Executor | None = None


class RunContext:
    """One run as its program sees it. `agents.runtime.run.execute` runs a program with it, once."""

    def __init__(
        self,
        *,
        run_id: str,
        agent: AgentSpec,
        input: Any,
        journal: Journal,
        port: ModelPort,
        toolbox: ToolBox,
        transport: Transport | None = None,
        user_id: int | None = None,
        limits: Limits | None = None,
        seed: int = 0,
        elapsed_s: float = 0.0,
        lost: Usage | None = None,
        options: Options | None = None,
        gatekeeper: Gatekeeper | None = None,
        ledger: Ledger | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Make the context of one claim of a run.

        ``limits`` are the agent's own where there are no narrower ones. ``elapsed_s`` is how long ago the run was
        submitted: it counts against the latency budget. ``lost`` is what earlier claims spent on steps that failed: it
        is in no journal and counts against the caps all the same.
        """
        self.run_id = run_id
        self.user_id = user_id
        self.agent = agent
        self.input = input
        self.limits = limits or agent.limits
        self.options = options or Options()
        self._seed = seed
        self._elapsed_s = elapsed_s
        self._began = asyncio.get_running_loop().time()
        self._transport = Shielded(transport or NullTransport(), run_id)
        self._port = port
        self.gate = Gate()
        self.parking = Parking()
        self.recorder = Recorder(
            journal, self._transport, self.gate, clock or (lambda: datetime.now(UTC)), self.options.max_output_bytes
        )
        self.meter = Meter(self.limits, agent.models, port, lambda: self._age_s() * 1000)
        self._drafter = Drafter(agent, toolbox, self.gate, self.options.request_timeout_s)
        if lost is not None:
            self.meter.add(lost)
        self._asker = Asker(port, self.meter, agent.models, self.options.attempts, self.left_s)
        self._answer = Answer(port, self._transport, self.options.streaming)
        ledger = ledger or MemoryLedger()
        self._approving = Approving(gatekeeper or OpenGate(), self.recorder, self._wait_for_people, ledger)
        self._caller = Caller(
            toolbox,
            agent,
            self.recorder,
            self._approving,
            self.parking,
            ledger,
            self.options.max_batch_size,
            run_id,
            user_id,
        )

    # --- models --------------------------------------------------------------------------------------------------

    async def model(
        self,
        name: str,
        messages: Ask,
        *,
        tools: bool | Sequence[str] = False,
        tool_choice: Choice = "auto",
        output: dict[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> Reply:
        """Ask a model and return its reply, as the step ``name``.

        The agent's instructions go first unless the messages begin with a system message. ``tools`` offers all of the
        agent's tools or those named. ``output`` is a JSON schema: the reply's `data` then fits it. ``max_tokens``
        bounds the reply, else all that is left does: give it to calls that run side by side, or each waits for the
        one before.

        Raises:
            RunError: BudgetExceeded, ModelUnavailable, ModelRefused, BadReply, ContextOverflow …
        """
        with self.gate.enter("model") as branch:
            draft = self._drafter.draft(messages, tools, tool_choice, output)
            slot = self._slot(branch, name, "model", draft, max_tokens)
            return await self._turn(branch, slot, draft, max_tokens, self._port.request)

    async def compose(
        self,
        answer: Ask | Reply,
        *,
        tools: bool = True,
        name: str = "compose",
        max_tokens: int | None = None,
        check: Check | None = None,
    ) -> Reply:
        """Write the answer, or one part of it: the only thing that streams, and nothing else runs meanwhile.

        A text (or a reply's text) is the answer as it stands. Messages are put to a model, whose text streams; with
        ``tools`` the agent's tools are offered and the reply may ask for calls instead (its text is then a preamble) or
        as well (then they are for a turn that follows).

        Raises:
            Misuse: it is called inside `ctx.gather`.
            RunError: as `model`.
        """
        with self.gate.enter("compose") as branch:
            if branch.path:
                raise self.gate.misuse("ctx.compose was called inside ctx.gather: an answer is written alone.")
            if isinstance(answer, str | Reply):
                reply = await self._say(branch, name, answer if isinstance(answer, str) else answer.text)
            elif self.agent.verify == "buffered":
                if check is None:
                    raise self.gate.misuse("The agent's answers are verified: give ctx.compose a check for this one.")
                reply = await self._held(branch, name, self._drafter.draft(answer, tools), max_tokens, check)
            else:
                draft = self._drafter.draft(answer, tools, timeout_s=self.options.streaming.timeout_s)
                slot = self._slot(branch, name, "compose", draft, max_tokens)
                reply = await self._turn(branch, slot, draft, max_tokens, self._answer.stream)
            await self._answer.finish(reply)
            return reply

    async def _say(self, branch: Branch, name: str, text: str) -> Reply:
        async def work() -> Done:
            await self._answer.say(text)
            return Done(plain(Reply(text=text)), text)

        text = plain(text)
        slot = self.recorder.take(branch, name, "compose", {"text": text})
        return Reply.model_validate(await self.recorder.once(branch, slot, work))

    async def _held(self, branch: Branch, name: str, draft: ModelCall, max_tokens: int | None, check: Check) -> Reply:
        """Hold an answer back until it is judged. The draft and the verdict are steps of their own."""
        slot = self._slot(branch, DRAFT, "model", draft, max_tokens)
        reply = await self._turn(branch, slot, draft, max_tokens, self._port.request)
        if reply.calls:
            return reply.model_copy(update={"preamble": True})

        async def judge() -> Done:
            verdict = await self._call(VERIFY, check, (reply.text,))
            return Done(plain(Verdict.model_validate(verdict)), verdict_summary(verdict))

        # Whoever may look at the step need not be one who may read what was held back.
        slot = self.recorder.take(branch, VERIFY, "step", {"text": reply.text}, {"characters": len(reply.text)})
        verdict = Verdict.model_validate(await self.recorder.once(branch, slot, judge))
        said = await self._say(branch, name, text_after(reply.text, verdict))
        return reply.model_copy(update={"text": said.text})

    async def _turn(self, branch: Branch, slot: Slot, draft: ModelCall, want: int | None, send: Send) -> Reply:
        async def work() -> Done:
            started = self.recorder.clock()
            question = Question(
                draft,
                want,
                send,
                on_retry=lambda error, line: self.recorder.fail_attempt(slot, error, started, line),
                heard=self._answer.heard if slot.kind == "compose" else str,
            )
            try:
                reply = await self._asker.ask(question)
            except asyncio.CancelledError:
                if question.spent != Usage():
                    await self.recorder.stopped(slot, question.spent, started)
                raise
            calls = ", ".join(call.tool for call in reply.calls)
            summary = f"{reply.text} → {calls}" if calls else reply.text
            return Done(plain(reply, f"The reply of step {slot.name!r}"), summary, reply.model, reply.usage, turns=1)

        return Reply.model_validate(await self.recorder.once(branch, slot, work))

    def _slot(self, branch: Branch, name: str, kind: StepKind, draft: ModelCall, want: int | None) -> Slot:
        given = identity(draft, want)
        return self.recorder.take(branch, name, kind, given, outline(given))

    # --- tools and functions -------------------------------------------------------------------------------------

    async def tools(self, calls: Sequence[ToolCall | PlannedCall]) -> tuple[ToolResult, ...]:
        """Run the calls a model asked for, each as a step, and return their results in the same order.

        Calls of batchable tools run together; any other runs alone, after those asked for before it. A call that
        fails, times out or names an unknown tool gives a result with ``ok=False``.
        """
        with self.gate.enter("tools") as branch:
            asked = [call.as_call() if isinstance(call, PlannedCall) else call for call in calls]
            return await self._caller.run(branch, asked)

    async def step(self, name: str, fn: Callable[..., Any], *args: Any) -> Any:
        """Run any function once and return its result as plain JSON, now and on every replay.

        A synchronous function runs in a thread. Its arguments and its result are JSON, or models and dataclasses,
        which become dicts.

        Raises:
            StepFailed: the function raised. A RunError that it raised itself comes as it is.
            NotJson, OutputTooLarge: its arguments or its result cannot be kept.
        """
        with self.gate.enter(f"step({name!r})") as branch:

            async def work() -> Done:
                output = plain(await self._call(name, fn, args), f"The output of step {name!r}")
                return Done(output)

            given = [plain(arg, f"Argument {i} of step {name!r}") for i, arg in enumerate(args, 1)]
            return await self.recorder.once(branch, self.recorder.take(branch, name, "step", given), work)

    async def _call(self, name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            if inspect.iscoroutinefunction(fn):
                return await fn(*args)
            context = contextvars.copy_context()
            result, failure = await asyncio.get_running_loop().run_in_executor(
                self.options.executor, context.run, _attempt, fn, args
            )
            if failure is not None:
                raise failure
            return await result if inspect.isawaitable(result) else result
        except (Exception, SystemExit) as raised:
            error = as_run_error(raised, StepFailed, step=name)
            raise error from error.__cause__

    async def gather(self, *coroutines: Coroutine[Any, Any, Any], limit: int | None = None) -> list[Any]:
        """Run coroutines side by side, at most ``limit`` at a time, and return their results in order.

        The first failure cancels the others, waits for them and is raised; an exception of the program's own comes as
        a ProgramError, so that a replay raises the same.
        """
        try:
            with self.gate.enter("gather") as branch:
                return await self._gather(branch, coroutines, limit)
        finally:
            for one in coroutines:
                if inspect.iscoroutine(one) and inspect.getcoroutinestate(one) == inspect.CORO_CREATED:
                    one.close()  # it never began

    async def _gather(self, branch: Branch, works: Sequence[Coroutine[Any, Any, Any]], limit: int | None) -> list[Any]:
        for work in works:
            if not inspect.iscoroutine(work):
                raise self.gate.misuse(f"ctx.gather takes coroutines, not a {type(work).__qualname__}.")
        slot = self.recorder.take(branch, "gather", "value", {"branches": len(works)})
        children = [branch.child(branch.counts["gather"], index) for index in range(len(works))]
        self.recorder.recall_failure(slot, f"{branch.path}{branch.counts['gather']}.")
        await self.recorder.flush(branch)
        room = Room(self.parking, len(works), limit)
        tasks = []
        for place, (child, work) in enumerate(zip(children, works, strict=True)):
            tasks.append(asyncio.create_task(_follow(child, work, room.door(place))))
            tasks[-1].add_done_callback(partial(room.left, place))
        try:
            results = await settle(tasks)
        except Exception as raised:
            branch.caught.append((slot, problem(as_run_error(raised))))
            raise
        for child in children:
            branch.caught += child.caught
            branch.cut = branch.cut or child.cut
        return results

    # --- waits ---------------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float, *, name: str = "sleep") -> None:
        """Go on after so many seconds, counted from the first time that the run comes here.

        A run of which nothing else goes on leaves its worker meanwhile, for days if need be.

        Raises:
            Misuse: ``seconds`` is no number of seconds from 0 to a hundred years.
        """
        with self.gate.enter("sleep") as branch:
            until = self._after("sleep", seconds)
            slot = self.recorder.take(branch, name, "wait", {"sleep": seconds})
            await self._wait(branch, slot, "time", until, lambda _: Done(None, f"{seconds:g} s"))

    async def wait_event(self, name: str, *, timeout_s: float | None = None) -> Any:
        """Wait for the event ``name`` and return what it carries, JSON; None if it does not come in ``timeout_s``.

        The run leaves its worker meanwhile. An event that came before the run got here is not lost, if it was sent to
        this run.

        Raises:
            Misuse: ``timeout_s`` is no number of seconds.
        """
        with self.gate.enter("wait_event") as branch:
            until = None if timeout_s is None else self._after("wait_event", timeout_s)
            slot = self.recorder.take(branch, name, "wait", {"event": name, "timeout_s": timeout_s})
            return await self._wait(branch, slot, "event", until, lambda result: Done(plain(result, f"Event {name!r}")))

    def _after(self, what: str, seconds: Any) -> datetime:
        """Return the time that many seconds from now, for ``ctx.<what>``."""
        if not (isinstance(seconds, int | float) and 0 <= seconds <= MAX_SLEEP_S):
            raise self.gate.misuse(f"ctx.{what} takes seconds, 0 to {MAX_SLEEP_S:,}, not {seconds!r}.")
        return self.recorder.clock() + timedelta(seconds=seconds)

    async def approve(
        self,
        plan: Plan | Sequence[ToolCall | PlannedCall] | dict[str, Any],
        *,
        reason: str = "",
        revise: Callable[[Plan, str], Awaitable[Plan | Sequence[ToolCall | PlannedCall] | dict[str, Any]]]
        | None = None,
        name: str = "approve",
    ) -> Plan:
        """Ask people to decide on a plan and return it as they decided: perhaps with other arguments.

        The run leaves its worker until then. What the plan's calls may do they may do once: hand ``plan.calls`` to
        `ctx.tools`. A call with other arguments is another call: the rules say whether it is asked about. Nobody is
        asked about a plan that has neither calls nor words. ``revise`` is awaited with the plan and what was said when
        changes are requested, and what it returns is asked about again.

        Raises:
            Rejected, ChangesRequested: people decided so; the comment is what they said.
            PlanAltered: the decision in the database is not what they decided.
            pydantic.ValidationError: data that is no plan.
        """
        wanted = as_plan(plan)
        while wanted.calls or wanted.title or wanted.summary:
            try:
                with self.gate.enter("approve") as branch:
                    return await self._approving.decide(branch, name, wanted, reason)
            except ChangesRequested as asked:
                if revise is None:
                    raise
                wanted = as_plan(await revise(wanted, str(asked.extra.get("comment", ""))))
        return wanted

    async def _wait_for_people(self, branch: Branch, slot: Slot, settled: Callable[[Any], Done], data: Any) -> Any:
        return await self._wait(branch, slot, "person", None, settled, data)

    async def _wait(
        self,
        branch: Branch,
        slot: Slot,
        kind: WaitKind,
        until: datetime | None,
        settled: Callable[[Any], Done],
        data: Any = None,
    ) -> Any:
        """Return what the journal has of a wait, or what resolved it, recorded; else park."""
        found = self.recorder.recall(slot)
        if found is not None:
            await self.recorder.breathe()
            return plain(found.output)
        key = wait_key(slot.key)
        if key in self.recorder.resolved:
            return await self.recorder.after(branch, slot, settled(self.recorder.resolved[key]))
        await self.recorder.flush(branch)
        await self.parking.park(Waiting(key, kind, until, data))
        raise AssertionError("a parked line does not go on")

    # --- values --------------------------------------------------------------------------------------------------

    async def now(self) -> datetime:
        """Return the time, in UTC: the same one on every replay."""

        async def work() -> Done:
            return Done(self.recorder.clock().isoformat())

        with self.gate.enter("now") as branch:
            slot = self.recorder.take(branch, "now", "value", None)
            return datetime.fromisoformat(await self.recorder.once(branch, slot, work))

    async def random(self) -> float:
        """Return a number in [0, 1), drawn from the run's seed and the call's place: the same one on every replay."""
        with self.gate.enter("random") as branch:
            return int.from_bytes(self._draw(branch.next_key("random"))[:6]) / 2**48

    async def uuid(self) -> UUID:
        """Return a version 4 UUID, drawn as `random` is: the same one on every replay of this run, and in no other."""
        with self.gate.enter("uuid") as branch:
            return UUID(bytes=self._draw(branch.next_key("uuid"))[:16], version=4)

    def _draw(self, key: str) -> bytes:
        return hashlib.sha256(f"{self._seed}/{self.run_id}/{key}".encode()).digest()

    async def emit(self, name: str, data: Any = None) -> None:
        """Publish a fact, once."""

        async def work() -> Done:
            return Done(fact)

        with self.gate.enter("emit") as branch:
            fact = plain(data, f"The event {name!r}")
            await self.recorder.once(branch, self.recorder.take(branch, name, "emit", fact), work)

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Tell how far the run is. It is no step: a replay passes over it."""
        with self.gate.enter("progress"):
            await self.recorder.progress(done, total, note)

    def patched(self, tag: str) -> bool:
        """Return True in runs that come here for the first time, False in those that went past before the change.

        So `if ctx.patched("cite-pages"): …new way… else: …old way…` lets a program change under runs in flight.
        """
        with self.gate.enter("patched"):
            self.gate.check_name(tag)
            return self.recorder.patched(tag)

    # --- for those who run it ------------------------------------------------------------------------------------

    @property
    def totals(self) -> Totals:
        """What the run has used, also when it failed."""
        return self.meter.totals(self.recorder.steps)

    def left_s(self) -> float:
        """Return the seconds left of the wall clock."""
        return self.limits.wall_clock_s - (asyncio.get_running_loop().time() - self._began)

    def _age_s(self) -> float:
        return self._elapsed_s + asyncio.get_running_loop().time() - self._began


def _attempt(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Call ``fn``; its exception is a value here, for a future cannot carry a StopIteration."""
    try:
        return fn(*args), None
    except BaseException as error:
        return None, error


async def _follow(branch: Branch, work: Coroutine[Any, Any, Any], let_in: Awaitable[None]) -> Any:
    await let_in
    enter_task(branch)
    return await contained(lambda: work)
