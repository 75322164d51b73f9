"""Branches of a run and who may call `ctx` on them.

A step's key is branch path + name + occurrence, so every branch must be one line of execution. The program's own task
is the root; `ctx.gather` gives each of its coroutines a branch and a task. A call from any other task is refused: in
which order it comes would be chance.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from agents.runtime.errors import Misuse, RunError
from agents.runtime.ports import StepKind, Superseded

_NAME = re.compile(r"[\w.:@+-][\w .:@+-]{0,119}")
#: Longer paths are hashed, so that path, name and occurrence stay under the 300 characters of a key.
_MAX_PATH = 150


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one call in the run: what the journal knows it by."""

    key: str
    name: str
    kind: StepKind
    digest: str
    #: Of the input, plain, what is worth showing.
    shown: Any = None


@dataclass(slots=True, eq=False)
class Branch:
    """One line of execution. Its counters make the occurrences."""

    gate: Gate
    path: str = ""
    owner: asyncio.Task[Any] | None = None
    #: The call in progress.
    busy: str = ""
    #: A call that was cancelled by the program itself.
    cut: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    #: Failures whose record is due as soon as the program goes on after them, with the place of each.
    caught: list[tuple[Slot, dict[str, Any]]] = field(default_factory=list)

    def next_key(self, name: str) -> str:
        """Return the key of the next call of that name on this branch.

        Raises:
            Misuse: the name is not one to make keys of.
        """
        seen = self.counts.get(name, 0)
        if not seen:
            self.gate.check_name(name)
        self.counts[name] = seen + 1
        return f"{self.path}{name}#{seen + 1}"

    def peek_key(self, name: str, after: int = 0) -> str:
        """Return the key that the next call of that name would have, or one so many ``after`` it."""
        return f"{self.path}{name}#{self.counts.get(name, 0) + after + 1}"

    def child(self, gather: int, index: int) -> Branch:
        """Return the branch of one coroutine of the ``gather``-th gather here."""
        path = f"{self.path}{gather}.{index}/"
        if len(path) > _MAX_PATH:
            path = f"~{hashlib.sha256(path.encode()).hexdigest()[:32]}/"
        return Branch(self.gate, path)


#: The branch that the running code belongs to. Copied into tasks it starts, hence `Branch.owner`.
_current: ContextVar[Branch | None] = ContextVar("branch", default=None)


def enter_task(branch: Branch) -> None:
    """Make the current task the owner of the branch."""
    branch.owner = asyncio.current_task()
    _current.set(branch)


class Gate:
    """Lets a program's calls in, one at a time a branch, until the run stops."""

    def __init__(self) -> None:
        self.root = Branch(self)
        #: Why no further call is let in.
        self.stopped: BaseException | None = None

    def stop(self, reason: BaseException) -> None:
        """Refuse every further call. The first reason stays."""
        if self.stopped is None:
            self.stopped = reason

    def misuse(self, detail: str) -> Misuse:
        """Return the error, having stopped the run with it: it surfaces even if the program swallows it."""
        error = Misuse(detail)
        self.stop(error)
        return error

    def check_name(self, name: str) -> None:
        """Refuse a name that would spoil keys.

        Raises:
            Misuse: it is empty, too long, or has characters that keys use themselves.
        """
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise self.misuse(f"{name!r} is no name for a step: use up to 120 letters, digits, spaces and . : @ + - _")

    def check(self) -> None:
        """Raise what stopped the run, if anything did: a cancelled run goes on being cancelled."""
        if self.stopped is None:
            return
        if isinstance(self.stopped, RunError | Superseded):
            raise self.stopped
        raise asyncio.CancelledError(str(self.stopped))

    def enter(self, what: str) -> Call:
        """Return a context manager that gives the branch on which ``ctx.<what>`` is being called.

        Raises:
            Misuse: it is called from a task of the program's own, or inside another call.
            CancelledError, Superseded, RunError: the run has stopped.
        """
        return Call(self, what)


class Call:
    """One call of `ctx` from its beginning to its end."""

    __slots__ = ("_branch", "_gate", "_what")

    def __init__(self, gate: Gate, what: str) -> None:
        self._gate = gate
        self._what = what

    def __enter__(self) -> Branch:
        self._gate.check()
        branch = self._branch = self._find()
        branch.busy = self._what
        return branch

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._branch.busy = ""
        if isinstance(error, asyncio.CancelledError):
            self._branch.cut = self._what

    def _find(self) -> Branch:
        branch = _current.get()
        refuse = self._gate.misuse
        if branch is None or branch.gate is not self._gate:
            raise refuse(f"ctx.{self._what} was called outside of its run.")
        if branch.owner is not _current_task():
            raise refuse(
                f"ctx.{self._what} was called from a task that the program started (create_task, asyncio.gather, "
                "wait_for …). Use ctx.gather: it alone runs things side by side so that each step keeps its key."
            )
        if branch.busy:
            raise refuse(f"ctx.{self._what} was called while ctx.{branch.busy} was still running.")
        if branch.cut:
            raise refuse(
                f"The program cut ctx.{branch.cut} off and went on with ctx.{self._what}: a replay could not repeat "
                "that. Give the tool or the function a time limit of its own."
            )
        return branch


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
