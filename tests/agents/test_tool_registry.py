"""From a function to a tool: its schema, its checks, and what a call of it comes to."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
import threading
from typing import Any, Literal

import pytest

from agents.runtime.ports import ToolContext
from agents.runtime.types import ToolCall
from agents.tools import catalog, registry
from agents.tools.registry import Refused, Tool, tool
from agents.tools.toolbox import LocalToolBox, UnknownTool

CONTEXT = ToolContext(run_id="r", user_id=7, agent="a", step_key="s", idempotency_key="k")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.load()  # what is imported for the first time from here on would be gone with this test
    monkeypatch.setattr(registry, "_tools", {})


async def use(made: Tool[..., Any], arguments: dict[str, Any], **options: Any) -> Any:
    box = LocalToolBox({made.name: made}, **options)
    try:
        return await box.call(ToolCall(id="1", tool=made.name, arguments=arguments), CONTEXT)
    finally:
        box.close()


def test_type_hints_and_docstring_make_the_schema() -> None:
    @tool
    def book(day: datetime.date, seats: int = 2, kind: Literal["bus", "train"] = "bus", *, context: ToolContext) -> str:
        """Book seats.

        Only for known travellers.

        Args:
            day: The day of travel.
            seats: How many.
        """
        return f"{day} {seats} {kind} {context.user_id}"

    assert book.spec.name == "book"
    assert book.spec.description == "Book seats.\n\nOnly for known travellers."
    assert book.spec.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["day"],
        "properties": {
            "day": {"type": "string", "format": "date", "description": "The day of travel."},
            "seats": {"type": "integer", "default": 2, "description": "How many."},
            "kind": {"type": "string", "enum": ["bus", "train"], "default": "bus"},
        },
    }


async def test_arguments_are_converted_and_the_caller_is_given() -> None:
    @tool
    async def book(day: datetime.date, context: ToolContext, seats: int = 2) -> str:
        return f"{day:%d.%m.} {seats} {context.user_id}"

    result = await use(book, {"day": "2026-11-20"})
    assert (result.ok, result.content) == (True, "20.11. 2 7")


async def test_bad_arguments_tell_the_model_what_is_wrong() -> None:
    @tool
    def add(a: int, b: int = 0) -> int:
        return a + b

    result = await use(add, {"b": "many", "c": 1})
    assert (result.ok, result.error) == (False, "bad-arguments")
    for part in ("a: is missing", "b: Input should be a valid integer", "c: is not a parameter", "b (optional)"):
        assert part in result.content


@pytest.mark.parametrize("bad", [lambda x: x, lambda *x: x])
def test_a_parameter_without_a_type_is_refused_when_it_is_declared(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"tool takes no|type hint"):
        tool(bad)


def test_two_functions_cannot_share_a_name() -> None:
    @tool(name="same")
    def one() -> None: ...

    def other() -> None: ...

    with pytest.raises(ValueError, match="there is a tool named 'same' already"):
        tool(name="same")(other)
    tool(name="same")(one.fn)  # the same function once more, as a reload does


async def test_a_tool_that_takes_too_long_is_a_result() -> None:
    ended = asyncio.Event()

    @tool(timeout_s=0.05)
    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    result = await use(waits, {})
    assert (result.ok, result.error) == (False, "timeout")
    assert "0.05 s" in result.content
    assert ended.is_set(), "it was stopped"


async def test_a_time_out_of_the_tool_s_own_is_a_failure_and_not_ours() -> None:
    @tool
    async def gives_up() -> None:
        raise TimeoutError("secret host")

    result = await use(gives_up, {})
    assert (result.error, "secret" in result.content) == ("failed", False)


async def test_a_blocking_tool_leaves_the_loop_free_and_is_timed_out_too() -> None:
    go = threading.Event()

    @tool(timeout_s=0.1)
    def blocks() -> None:
        go.wait(10)

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    result = await use(blocks, {})
    ticking.cancel()
    go.set()
    assert result.error == "timeout"
    assert ticks >= 3


async def test_an_exception_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    @tool
    def breaks() -> None:
        raise ValueError("password=hunter2")

    result = await use(breaks, {})
    assert result.error == "failed"
    assert "hunter2" not in result.content
    assert "hunter2" in caplog.text


async def test_a_refusal_is_shown_in_its_own_words() -> None:
    @tool
    def refuses() -> None:
        raise Refused("closed", "The shop is closed.")

    result = await use(refuses, {})
    assert (result.ok, result.error, result.content) == (False, "closed", "The shop is closed.")


async def test_cancelling_a_call_cancels_the_tool() -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @tool
    async def waits() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise

    task = asyncio.create_task(use(waits, {}))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_a_result_that_is_too_long_is_cut_and_says_so() -> None:
    @tool
    def long() -> str:
        return "x" * 5000

    result = await use(long, {}, max_result_chars=100)
    assert len(result.content["text"]) == 100
    assert "5000 characters" in result.content["note"]


async def test_a_result_holds_nothing_that_the_database_cannot() -> None:
    @tool
    def odd() -> dict[str, Any]:
        return {"a\x00": ["b\x00c", "\ud83d"], "when": datetime.date(2026, 1, 2), "much": float("inf")}

    assert (await use(odd, {})).content == {"a": ["bc", "?"], "when": "2026-01-02", "much": "inf"}


async def test_an_unknown_tool_names_the_nearest() -> None:
    @tool
    def weather() -> str:
        return "fine"

    box = LocalToolBox()
    result = await box.call(ToolCall(id="1", tool="wether"), CONTEXT)
    assert (result.error, "Did you mean weather?" in result.content) == ("unknown-tool", True)
    with pytest.raises(UnknownTool):
        box.specs(["wether"])


async def test_a_tool_that_needs_approval_does_not_run_without_it() -> None:
    ran = []

    @tool(approval="always")
    def pay() -> None:
        ran.append(1)

    assert (await use(pay, {})).error == "approval-required"
    assert not ran


async def test_the_configuration_changes_how_a_tool_runs() -> None:
    @tool(timeout_s=30)
    async def slow() -> None:
        await asyncio.sleep(60)

    box = LocalToolBox(
        {"slow": slow}, overrides={"slow": {"id": "slow", "timeoutMs": 50, "batchable": False, "async": True}}
    )
    assert (box.policy("slow").timeout_s, box.policy("slow").batchable, box.get("slow").async_) == (0.05, False, True)
    assert (await box.call(ToolCall(id="1", tool="slow"), CONTEXT)).error == "timeout"
    assert slow.policy.timeout_s == 30, "the tool itself is as it was"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"timeoutms": 5}, "did you mean timeout_ms"),
        ({"timeoutMs": "soon"}, "timeoutMs: Input should be a valid integer"),
        ({"timeoutMs": 0}, "more than zero"),
        ({"batchable": "perhaps"}, "batchable: Input should be a valid boolean"),
    ],
)
def test_a_wrong_change_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LocalToolBox({}, overrides={"x": given})


def test_calling_a_tool_calls_its_function() -> None:
    @tool
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8


def test_the_catalog_loads_without_a_provider_s_library_or_a_docstring_parser() -> None:
    code = (
        "import sys; from django.conf import settings; settings.configure(INSTALLED_APPS=[]);"
        "from agents.tools import registry, toolbox, catalog; from agents.llm import choose, demo, port;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'pydantic_ai', 'griffe', 'openai', 'anthropic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_astra_s_own_tools_have_schemas_a_model_can_use() -> None:
    registry._tools.update(catalog.load())
    for module in catalog.MODULES:
        for made in vars(sys.modules[module]).values():
            if isinstance(made, Tool):
                assert made.spec.description, made.name
                for name, schema in made.spec.parameters["properties"].items():
                    assert schema.get("description"), f"{made.name}.{name}"
