"""The registry of programs."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from agents.runtime.context import RunContext

Function = Callable[[RunContext], Coroutine[Any, Any, Any]]
F = TypeVar("F", bound=Function)


class UnknownProgram(LookupError):
    """No program of that name is registered in this process."""


@dataclass(frozen=True, slots=True)
class Program:
    """A registered program. Call it with a context."""

    name: str
    function: Function
    #: SHA-256 of the source of the module that defines it: its functions are part of it.
    source_hash: str
    #: It gives `ctx.compose` a check: what `verify: buffered` needs.
    verifies: bool = False

    def __call__(self, ctx: RunContext) -> Coroutine[Any, Any, Any]:
        """Begin the program."""
        return self.function(ctx)


_programs: dict[str, Program] = {}


def program(name: str, *, verifies: bool = False) -> Callable[[F], F]:
    """Register an `async def program(ctx)` under a name that agents refer to. Names are stored: they are for ever.

    With ``verifies`` it gives each `ctx.compose` a check of the answer, so that its agent may say `verify: buffered`.

    Raises:
        TypeError: it is no coroutine function.
        ValueError: another function has the name.
    """

    def register(function: F) -> F:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"the program {name!r} must be an `async def`")
        known = _programs.get(name)
        if known is not None and _place(known.function) != _place(function):
            raise ValueError(f"{_place(function)} and {_place(known.function)} are both the program {name!r}")
        _programs[name] = Program(name, function, _source_hash(function), verifies)
        return function

    return register


def get(name: str) -> Program:
    """Return the program of that name.

    Raises:
        UnknownProgram: none is registered here; the message names the nearest.
    """
    try:
        return _programs[name]
    except KeyError:
        near = get_close_matches(name, _programs, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(_programs)) or 'none'}"
        raise UnknownProgram(f"no program named {name!r} is registered; {hint}") from None


def names() -> list[str]:
    """Return the names of all registered programs."""
    return sorted(_programs)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _source_hash(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(sys.modules[function.__module__]).encode()).hexdigest()
