"""Chat's way to a model under fire: the real port and runtime with streaming's policy, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agents.llm.port import PydanticAIPort
from agents.modes import policy
from agents.programs.loop import loop
from agents.runtime.answering import Streaming
from agents.runtime.context import Options, RunContext
from agents.runtime.errors import BadReply, ContextOverflow, ModelRefused, ModelUnavailable, RunError
from agents.runtime.run import RunResult, execute
from agents.runtime.types import Budget, Models
from tests.support import anthropic_server, openai_server
from tests.support.anthropic_server import AnthropicServer
from tests.support.openai_server import OpenAIServer, Says
from tests.support.scripted import AGENT, JsonJournal, Screen, ScriptedTools, context

OPENAI, RESPONSES, ANTHROPIC = "openai:test-model", "openai-responses:gpt-5.1", "anthropic:claude-sonnet-5-5"
ALL = pytest.mark.parametrize("model", [OPENAI, RESPONSES, ANTHROPIC])
ANSWER = "The beacon is lit when the wind exceeds forty knots."
GOOD = Says(text=ANSWER)
#: As in the chat, but for waits that a test would only sit out.
OPTIONS = replace(policy("streaming-sync").options(), streaming=Streaming(first_token_s=1.0, stall_s=0.7))
#: What no exchange may take longer than: two attempts with their time-outs and the wait between them.
BUDGET_S = 8.0


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer(says=GOOD) as server:
        yield server


@pytest.fixture
def anthropic() -> Iterator[AnthropicServer]:
    with AnthropicServer(says=GOOD) as server:
        yield server


@pytest.fixture
def server(model: str, openai: OpenAIServer, anthropic: AnthropicServer) -> OpenAIServer:
    return anthropic if model == ANTHROPIC else openai


@pytest.fixture
async def port(model: str, openai: OpenAIServer, anthropic: AnthropicServer) -> AsyncIterator[PydanticAIPort]:
    env = {
        "OPENAI_BASE_URL": openai.base_url,
        "OPENAI_API_KEY": "sk-test-secret",
        "ANTHROPIC_API_KEY": "sk-ant-secret",
        "ANTHROPIC_BASE_URL": anthropic.url,
    }
    port = PydanticAIPort(env=env, prices=dict.fromkeys((OPENAI, RESPONSES, ANTHROPIC), (1, 10)))
    await port.open(model)
    yield port
    await port.aclose()


def chat(port: PydanticAIPort, model: str, screen: Screen, **more: Any) -> RunContext:
    agent = AGENT.model_copy(update={"models": Models(default=model), "tools": more.pop("tools", ())})
    options: Options = more.pop("options", OPTIONS)
    limits = policy("streaming-sync").limits(agent.limits, Budget())
    return context(port=port, agent=agent, transport=screen, options=options, limits=limits, **more)


async def answer(ctx: RunContext) -> RunResult:
    async with asyncio.timeout(BUDGET_S):
        return await execute(loop, ctx)


def before(module: Any) -> dict[str, tuple[Any, type[RunError]]]:
    return {
        "429 with a short wait": (module.fails(429, "slow down", retry_after="1"), ModelUnavailable),
        "429 without a wait": (module.fails(429, "slow down"), ModelUnavailable),
        "500": (module.fails(500, "oops"), ModelUnavailable),
        "503": (module.fails(503, "oops"), ModelUnavailable),
        "stalled before a word": (module.stalls, ModelUnavailable),
        "closed socket": (module.hangs_up, ModelUnavailable),
        "bad JSON": (module.bad_json, BadReply),
    }


WITHIN: dict[str, tuple[Says, type[RunError]]] = {
    "stalled before the first token": (Says(text=ANSWER, stall_after=0), ModelUnavailable),
    "stalled inside": (Says(text=ANSWER, stall_after=4), ModelUnavailable),
    "truncated": (Says(text=ANSWER, end_after=4), BadReply),
    "truncated before a word": (Says(text=ANSWER, end_after=0), BadReply),
    "bad JSON inside": (Says(text=ANSWER, garbage_after=4), BadReply),
    "closed inside": (Says(text=ANSWER, cut_after=4), ModelUnavailable),
    "error inside": (Says(text=ANSWER, error_after=4), ModelUnavailable),
}
KINDS = pytest.mark.parametrize("kind", [*before(openai_server), *WITHIN])


def fault(kind: str, model: str) -> tuple[Any, type[RunError]]:
    module = anthropic_server if model == ANTHROPIC else openai_server
    return (before(module) | WITHIN)[kind]


@KINDS
@ALL
async def test_a_fault_that_happens_once_costs_one_retry_and_no_word_is_lost_or_doubled(
    port: PydanticAIPort, model: str, server: OpenAIServer, kind: str
) -> None:
    server.will(fault(kind, model)[0])
    screen = Screen()
    result = await answer(chat(port, model, screen))
    assert result.output == {"text": ANSWER}
    assert screen.text == ANSWER
    assert screen.parts == [ANSWER]
    assert len(server.requests) == 2
    assert [record.is_final for record in screen.steps if not record.ok] == [False]
    whats = [what for what, _ in screen.told]
    if screen.withdrawn:
        since = whats.index("withdraw")
        assert "".join(text for what, text in screen.told[since:] if what == "delta") == ANSWER
    else:
        assert "".join(screen.shown) == ANSWER


@KINDS
@ALL
async def test_a_fault_that_stays_ends_after_two_attempts_with_an_error_that_says_what_to_do(
    port: PydanticAIPort, model: str, server: OpenAIServer, kind: str
) -> None:
    broken, expected = fault(kind, model)
    server.will(broken, broken, broken, broken)
    screen = Screen()
    with pytest.raises(expected) as caught:
        await answer(chat(port, model, screen))
    assert len(server.requests) == 2
    detail = caught.value.as_problem()["detail"]
    assert "Try again" in detail
    assert "sk-" not in detail
    assert screen.text == ""
    assert server.wait_until(lambda one: one.busy == 0, 5), "a request was left open"


@pytest.mark.parametrize(
    ("status", "message", "expected", "advice"),
    [
        (401, "bad key sk-test-secret", ModelRefused, "API_KEY"),
        (404, "no such model", ModelRefused, "Check ASTRA_MODEL"),
        (400, "prompt is too long: maximum context length is 8192", ContextOverflow, "begin a new conversation"),
    ],
)
@ALL
async def test_what_will_not_pass_is_not_tried_again_and_says_what_to_do(
    port: PydanticAIPort,
    model: str,
    server: OpenAIServer,
    status: int,
    message: str,
    expected: type[RunError],
    advice: str,
) -> None:
    module: Any = anthropic_server if model == ANTHROPIC else openai_server
    server.will(module.fails(status, message))
    with pytest.raises(expected, match=advice):
        await answer(chat(port, model, Screen()))
    assert len(server.requests) == 1


@ALL
async def test_a_wait_that_is_too_long_for_a_person_is_told_and_not_sat_out(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    module: Any = anthropic_server if model == ANTHROPIC else openai_server
    server.will(module.fails(429, "slow down", retry_after="30"))
    began = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"Try again in 30 s\."):
        await answer(chat(port, model, Screen()))
    assert time.monotonic() - began < 20
    assert len(server.requests) == 1


async def stopped(server: OpenAIServer, ctx: RunContext, when: Callable[[], bool]) -> float:
    """Stop the run once ``when`` is true, and return how long its request stayed open then."""
    task = asyncio.create_task(execute(loop, ctx))
    async with asyncio.timeout(BUDGET_S):
        while not when():
            await asyncio.sleep(0.002)
    at = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.wait_until, lambda one: one.exchanges[-1].abandoned, 5)
    left_at = server.exchanges[-1].left_at
    assert left_at is not None
    return left_at - at


@ALL
async def test_stopping_in_mid_answer_closes_the_request_at_once_keeps_the_text_and_is_charged(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    server.says, server.token_s = Says(text="word " * 5_000), 0.01
    screen, journal = Screen(), JsonJournal()
    ctx = chat(port, model, screen, journal=journal)
    took = await stopped(server, ctx, lambda: len(screen.shown) > 10)
    assert took < 5  # and not when the model has ended
    assert screen.text.startswith("word word")
    assert not screen.withdrawn
    assert ctx.totals.output_tokens >= 10
    assert ctx.totals.cost_usd > 0
    (told,) = journal.failures
    assert told.usage is not None
    assert told.usage.output_tokens == ctx.totals.output_tokens
    assert server.wait_until(lambda one: one.open == 0, 5)


@ALL
async def test_stopping_before_the_first_token_closes_the_request_at_once(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    server.first_token_s = 3600
    options = replace(OPTIONS, streaming=Streaming())
    took = await stopped(server, chat(port, model, Screen(), options=options), lambda: server.busy == 1)
    assert took < 5  # and not when the model has ended


@ALL
async def test_stopping_while_a_retry_waits_ends_the_run_at_once(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    module: Any = anthropic_server if model == ANTHROPIC else openai_server
    server.will(module.fails(429, "slow down", retry_after="2"))
    screen = Screen()
    task = asyncio.create_task(execute(loop, chat(port, model, screen)))
    async with asyncio.timeout(BUDGET_S):
        while not screen.steps:
            await asyncio.sleep(0.002)
    at = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - at < 1.5  # and not when the retry is due
    assert len(server.requests) == 1


@ALL
async def test_an_answer_may_take_longer_than_any_silence_in_it(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    server.says, server.token_s = Says(text="word " * 40), 0.04
    screen = Screen()
    await answer(chat(port, model, screen))
    assert screen.text == "word " * 40
    assert len(server.requests) == 1


@ALL
async def test_a_fault_between_tools_repeats_no_tool(port: PydanticAIPort, model: str, server: OpenAIServer) -> None:
    server.will(
        Says(text="Let me look.", calls=[("look", {"at": "beacon"})]),
        Says(text=ANSWER, cut_after=4),
        GOOD,
    )
    screen, box = Screen(), ScriptedTools()
    ctx = chat(port, model, screen, tools=("look",), toolbox=box)
    assert (await answer(ctx)).output == {"text": ANSWER}
    assert [call.arguments for call in box.ran] == [{"at": "beacon"}]
    assert screen.text == ANSWER
    assert len(server.requests) == 3


@ALL
async def test_a_call_after_the_head_is_run_when_the_stream_is_over(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    long = "word " * 60
    server.will(Says(text=long, calls=[("look", {})]), GOOD)
    busy: list[int] = []
    box = ScriptedTools({"look": lambda *_: busy.append(server.busy)})
    screen = Screen()
    result = await answer(chat(port, model, screen, tools=("look",), toolbox=box))
    assert result.output == {"text": f"{long}\n\n{ANSWER}"}
    assert screen.text == f"{long}\n\n{ANSWER}"
    assert busy == [0]
