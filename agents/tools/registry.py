"""Tools: plain functions that a model may call. Their type hints and docstring are the schema it sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar, overload

from agents.runtime.ports import ToolPolicy
from agents.runtime.types import ToolSpec
from agents.tools.signature import Signature, check

P = ParamSpec("P")
R = TypeVar("R")


class Refused(Exception):
    """A tool will not or cannot do what it was asked, for a reason that the model should read. Nothing was done.

    ``slug`` is stable and becomes the result's ``error``; the message becomes its content. A tool with effects that is
    not idempotent uses any but ``timeout`` and ``failed``: these leave open whether the call took effect, as any other
    exception does, and a person is asked.
    """

    def __init__(self, slug: str, message: str) -> None:
        super().__init__(message)
        self.slug = slug


@dataclass(frozen=True, eq=False)
class Tool(Generic[P, R]):
    """A function and how it is run. Calling it calls the function."""

    fn: Callable[P, R]
    name: str
    policy: ToolPolicy = field(default_factory=ToolPolicy)
    #: It may take longer than a turn: a later turn asks for its result.
    async_: bool = False
    #: "always" when a person has to agree to every call.
    approval: str | None = None
    #: What it changes, in words for whoever decides on a call.
    touches: tuple[str, ...] = ()
    #: Whether what it does can be undone; None where nobody knows.
    undoable: bool | None = None
    #: What a call costs to run, in USD; None where nobody says.
    cost_usd: Decimal | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: no checks, no time limit."""
        return self.fn(*args, **kwargs)

    @cached_property
    def signature(self) -> Signature:
        """What the function takes."""
        return Signature(self.fn)

    @cached_property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        return ToolSpec(name=self.name, description=self.signature.description, parameters=self.signature.json_schema)


_tools: dict[str, Tool[..., Any]] = {}


@overload
def tool(fn: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str = ...,
    batchable: bool = ...,
    async_: bool = ...,
    timeout_s: float = ...,
    idempotent: bool = ...,
    approval: str | None = ...,
    effect: bool = ...,
    touches: Sequence[str] = ...,
    undoable: bool | None = ...,
    cost_usd: Decimal | None = ...,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    fn: Callable[P, R] | None = None,
    /,
    *,
    name: str = "",
    batchable: bool = True,
    async_: bool = False,
    timeout_s: float = 30.0,
    idempotent: bool = True,
    approval: str | None = None,
    effect: bool = False,
    touches: Sequence[str] = (),
    undoable: bool | None = None,
    cost_usd: Decimal | None = None,
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a function a tool and register it under its name.

    Every parameter needs a type hint; a parameter annotated with `ToolContext` gets the caller and stays out of the
    schema. The docstring's first part is the description, its ``Args:`` describe the parameters. Sync functions run in
    a bounded thread pool.

    Args:
        fn: The function, when the decorator is used bare.
        name: Its name to the model; the function's own by default.
        batchable: It may run beside other calls of the same turn.
        async_: It may take longer than a turn.
        timeout_s: Seconds until the call ends as a ``timeout`` result.
        idempotent: Running it again with the same arguments changes nothing more.
        approval: "always" when a person has to agree.
        effect: It changes something outside the run.
        touches: What it changes, in words for whoever decides on a call.
        undoable: Whether what it does can be undone; None where nobody knows.
        cost_usd: What a call costs to run, for whoever decides on it; None where nobody says.

    Raises:
        TypeError: a parameter has no type hint, or is variadic.
        ValueError: another function has the name already.
    """

    def register(function: Callable[P, R]) -> Tool[P, R]:
        check(function)
        policy = ToolPolicy(batchable=batchable, idempotent=idempotent, effect=effect, timeout_s=timeout_s)
        made = Tool(function, name or function.__name__, policy, async_, approval, tuple(touches), undoable, cost_usd)
        known = _tools.get(made.name)
        if known is not None and _place(known.fn) != _place(function):
            raise ValueError(f"there is a tool named {made.name!r} already, in {known.fn.__module__}")
        _tools[made.name] = made
        return made

    return register if fn is None else register(fn)


def _place(function: Callable[..., Any]) -> str:
    """Return where a function is written: the same place again is the same module, loaded again."""
    return f"{function.__module__}.{function.__qualname__}"


def registered() -> Mapping[str, Tool[..., Any]]:
    """Return every tool registered so far, by name; `agents.tools.catalog.load` registers Astra's own."""
    return dict(_tools)
