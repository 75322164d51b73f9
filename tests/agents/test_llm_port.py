"""The model port against real servers on loopback that speak the providers' protocols, well and badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest

from agents.llm.port import PydanticAIPort
from agents.runtime.errors import BadReply, ContextOverflow, ModelRefused, ModelUnavailable, RunError
from agents.runtime.ports import Delta
from agents.runtime.types import Message, ModelCall, Reply, ToolCall, ToolResult, ToolSpec
from tests.support import anthropic_server, openai_server
from tests.support.anthropic_server import AnthropicServer
from tests.support.openai_server import OpenAIServer, Says

WEATHER = ToolSpec(
    name="weather",
    description="Tell the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
VERDICT = {
    "type": "object",
    "properties": {"fine": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["fine", "why"],
    "additionalProperties": False,
}
OPENAI, RESPONSES, ANTHROPIC = "openai:test-model", "openai-responses:gpt-5.1", "anthropic:claude-sonnet-5-5"
ALL = pytest.mark.parametrize("model", [OPENAI, RESPONSES, ANTHROPIC])
PRICES = {OPENAI: (1, 10), RESPONSES: (1, 10), ANTHROPIC: (1, 10)}


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def anthropic() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
async def port(openai: OpenAIServer, anthropic: AnthropicServer) -> AsyncIterator[PydanticAIPort]:
    env = {
        "OPENAI_BASE_URL": openai.base_url,
        "OPENAI_API_KEY": "sk-test-secret",
        "ANTHROPIC_API_KEY": "sk-ant-secret",
        "ANTHROPIC_BASE_URL": anthropic.url,
    }
    port = PydanticAIPort(env=env, prices=PRICES)
    yield port
    await port.aclose()


@pytest.fixture
def server(model: str, openai: OpenAIServer, anthropic: AnthropicServer) -> OpenAIServer:
    return anthropic if model == ANTHROPIC else openai


def ask(model: str, text: str = "Hello?", **more: Any) -> ModelCall:
    messages = (Message(role="system", text="Be kind."), Message(role="user", text=text))
    return ModelCall(**{"model": model, "messages": messages, "max_tokens": 200, "timeout_s": 20, **more})


async def collect(port: PydanticAIPort, call: ModelCall) -> tuple[list[Any], Reply]:
    items: list[Any] = []
    async with aclosing(port.stream(call)) as stream:
        items += [item async for item in stream if item != Delta("")]
    assert isinstance(items[-1], Reply)
    return items[:-1], items[-1]


@ALL
async def test_a_request_returns_text_usage_and_cost(port: PydanticAIPort, model: str) -> None:
    reply = await port.request(ask(model))
    assert reply.text == "Hello from the test model."
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (40, 12)
    assert reply.usage.cost_usd == Decimal("0.00016")
    assert (reply.model, reply.finish) == (model, "stop")


@ALL
async def test_a_stream_yields_pieces_and_then_the_whole_reply(port: PydanticAIPort, model: str) -> None:
    pieces, reply = await collect(port, ask(model))
    assert [type(piece) for piece in pieces] == [Delta] * 5
    assert "".join(piece.text for piece in pieces) == reply.text == "Hello from the test model."
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (40, 12)


@ALL
async def test_tool_calls_come_with_their_arguments(port: PydanticAIPort, model: str, server: OpenAIServer) -> None:
    server.says = Says(text="Let me look.", calls=[("weather", {"city": "Bergen"}), ("weather", {"city": "Oslo"})])
    call = ask(model, tools=(WEATHER,))
    whole = await port.request(call)
    pieces, streamed = await collect(port, call)
    for reply in (whole, streamed):
        assert [(one.tool, one.arguments) for one in reply.calls] == [
            ("weather", {"city": "Bergen"}),
            ("weather", {"city": "Oslo"}),
        ]
        assert (reply.text, reply.finish) == ("Let me look.", "tool_calls")
    assert [piece.tool for piece in pieces if isinstance(piece, ToolCall)] == ["weather", "weather"]
    assert isinstance(pieces[0], Delta)


@ALL
async def test_structured_output_is_read_and_held_against_its_schema(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    server.will(Says(text='{"fine": true, "why": "it is"}'), Says(text='{"fine": "maybe"}'), Says(text="I think so"))
    call = ask(model, output=VERDICT)
    assert (await port.request(call)).data == {"fine": True, "why": "it is"}
    with pytest.raises(BadReply, match="does not fit the schema"):
        await port.request(call)
    with pytest.raises(BadReply, match="asked for JSON"):
        await port.request(call)


@ALL
async def test_a_history_with_calls_and_results_reaches_the_provider(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    made = ToolCall(id="call_7", tool="weather", arguments={"city": "Bergen"})
    failed = ToolCall(id="call_8", tool="weather", arguments={"city": "Atlantis"})
    messages = (
        Message(role="system", text="Be kind."),
        Message(role="user", text="Weather?"),
        Message(role="assistant", text="", calls=(made, failed)),
        Message(
            role="tool",
            results=(
                ToolResult(call_id="call_7", tool="weather", content={"sky": "rain"}),
                ToolResult(call_id="call_8", tool="weather", ok=False, error="not-found", content="no such city"),
            ),
        ),
    )
    await port.request(ask(model, messages=messages, tools=(WEATHER,), tool_choice="none"))
    sent = str(server.requests[-1].json())
    for part in ("Be kind.", "Weather?", "call_7", "call_8", "rain", "not-found: no such city", "Tell the weather."):
        assert part in sent


@ALL
async def test_a_reply_cut_off_at_max_tokens_says_so(port: PydanticAIPort, model: str, server: OpenAIServer) -> None:
    server.says = Says(text='{"fine": tr', finish="length")
    _, streamed = await collect(port, ask(model, output=VERDICT))
    for reply in (await port.request(ask(model, output=VERDICT)), streamed):
        assert (reply.finish, reply.data, reply.text) == ("length", None, '{"fine": tr')


def faults(module: Any) -> dict[str, tuple[Any, type[RunError]]]:
    """Faults before the answer begins, with what they become."""
    return {
        "wrong key": (module.fails(401, "bad key sk-test-secret"), ModelRefused),
        "forbidden": (module.fails(403), ModelRefused),
        "no such model": (module.fails(404, "no such model"), ModelRefused),
        "bad request": (module.fails(400, "temperature is odd"), ModelRefused),
        "too long": (module.fails(400, "prompt is too long: maximum context length is 8192 tokens"), ContextOverflow),
        "too many": (module.fails(429, "slow down"), ModelUnavailable),
        "server error": (module.fails(500), ModelUnavailable),
        "bad gateway": (module.fails(502), ModelUnavailable),
        "overloaded": (module.fails(529, "overloaded"), ModelUnavailable),
        "hangs up": (module.hangs_up, ModelUnavailable),
        "half an answer": (module.bad_json, BadReply),
    }


KINDS = list(faults(openai_server))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
@ALL
async def test_every_fault_becomes_a_typed_error(
    port: PydanticAIPort, model: str, server: OpenAIServer, kind: str, streamed: bool
) -> None:
    module = anthropic_server if model == ANTHROPIC else openai_server
    fault, expected = faults(module)[kind]
    if kind == "half an answer" and streamed:
        expected = RunError  # half a JSON object is an empty stream: it broke off
    server.will(fault)
    with pytest.raises(expected) as caught:
        await (collect(port, ask(model)) if streamed else port.request(ask(model)))
    assert "secret" not in caught.value.detail
    assert len(server.requests) == 1, "a request is one attempt"
    assert (await port.request(ask(model))).text, "the port is fit for the next request"


@ALL
async def test_a_rate_limit_tells_how_long_to_wait(port: PydanticAIPort, model: str, server: OpenAIServer) -> None:
    module: Any = anthropic_server if model == ANTHROPIC else openai_server
    server.will(module.fails(429, "slow down", retry_after="7"))
    with pytest.raises(ModelUnavailable) as caught:
        await port.request(ask(model))
    assert caught.value.extra == {"retry_after_s": 7.0}


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (Says(cut_after=2), ModelUnavailable),
        (Says(end_after=2), BadReply),
        (Says(stall_after=2), ModelUnavailable),
        (Says(garbage_after=2), BadReply),
        (Says(error_after=2), ModelUnavailable),
    ],
    ids=["cut", "ended early", "stalled", "garbage", "error event"],
)
@ALL
async def test_what_goes_wrong_inside_a_stream_becomes_a_typed_error(
    port: PydanticAIPort, model: str, server: OpenAIServer, says: Says, expected: type[RunError]
) -> None:
    await port.open(model)
    server.will(says)
    texts: list[str] = []

    async def listen() -> None:
        async with aclosing(port.stream(ask(model, timeout_s=1.0 if says.stall_after < 9 else 20))) as stream:
            async for item in stream:
                texts.append(item.text if isinstance(item, Delta) else "")  # noqa: PERF401 (it is cut short)

    with pytest.raises(expected) as caught:
        await listen()
    assert "".join(texts) == "Hello from "
    usage = caught.value.usage
    assert usage is not None, "what came was paid for"
    assert usage.output_tokens == 2
    assert (await collect(port, ask(model)))[1].text, "the port is fit for the next request"


@ALL
async def test_a_server_that_says_nothing_is_given_up_on(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    await port.open(model)
    server.will(openai_server.stalls, openai_server.stalls)
    with pytest.raises(ModelUnavailable, match="in time"):
        await port.request(ask(model, timeout_s=0.4))
    with pytest.raises(ModelUnavailable, match="in time"):
        await collect(port, ask(model, timeout_s=0.4))
    assert server.wait_until(lambda one: all(exchange.abandoned for exchange in one.exchanges))


async def leave(stream: Any) -> None:
    async with aclosing(stream):
        async for _ in stream:
            return


async def cancel(stream: Any) -> None:
    began = asyncio.Event()

    async def read() -> None:
        async with aclosing(stream):
            async for _ in stream:
                began.set()

    task = asyncio.create_task(read())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stop", [leave, cancel])
@ALL
async def test_leaving_a_stream_closes_its_request(
    port: PydanticAIPort, model: str, server: OpenAIServer, stop: Callable[[Any], Any]
) -> None:
    server.will(Says(stall_after=1))
    await stop(port.stream(ask(model)))
    assert server.wait_until(lambda one: one.exchanges[-1].abandoned), "the server still waits for its reader"


async def test_a_stream_without_a_bill_is_whole_and_its_usage_estimated(
    port: PydanticAIPort, openai: OpenAIServer
) -> None:
    openai.says = Says(usage=False)
    _, reply = await collect(port, ask(OPENAI))
    assert reply.text == "Hello from the test model."
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens == 6


async def test_a_tool_call_with_broken_arguments_is_a_bad_reply(port: PydanticAIPort, openai: OpenAIServer) -> None:
    openai.says = Says(text="", calls=[("weather", '{"city": ')])
    for attempt in (port.request(ask(OPENAI, tools=(WEATHER,))), collect(port, ask(OPENAI, tools=(WEATHER,)))):
        with pytest.raises(BadReply, match="weather") as caught:
            await attempt
        assert caught.value.usage is not None


@ALL
async def test_a_model_that_writes_the_arguments_of_a_call_is_alive(
    port: PydanticAIPort, model: str, server: OpenAIServer
) -> None:
    server.says = Says(text="", calls=[("weather", {"city": "Llanfairpwllgwyngyll"})])
    async with aclosing(port.stream(ask(model, tools=(WEATHER,)))) as stream:
        items = [item async for item in stream]
    begins = next(at for at, item in enumerate(items) if isinstance(item, ToolCall))
    assert Delta("") in items[begins:]


async def test_signs_that_the_database_cannot_hold_are_left_out(port: PydanticAIPort, openai: OpenAIServer) -> None:
    openai.says = Says(text="a\x00b \ud83d end", calls=[("weather", {"city": "Ber\x00gen"})])
    pieces, reply = await collect(port, ask(OPENAI, tools=(WEATHER,)))
    assert reply.text == "ab ? end"
    assert reply.calls[0].arguments == {"city": "Bergen"}
    assert "\x00" not in "".join(piece.text for piece in pieces if isinstance(piece, Delta))


async def test_the_dialect_follows_the_name_and_the_base_url(port: PydanticAIPort, openai: OpenAIServer) -> None:
    for model in ("openai:llama-3", "openai-chat:gpt-5.1", "openai-responses:gpt-5.1"):
        await port.request(ask(model))
    assert [request.path for request in openai.requests] == ["/v1/chat/completions"] * 2 + ["/v1/responses"]
    llama, gpt, responses = (request.json() for request in openai.requests)
    assert llama["max_tokens"] == gpt["max_completion_tokens"] == responses["max_output_tokens"] == 200
    assert "max_completion_tokens" not in llama, "many compatible servers know max_tokens only"


async def test_all_requests_share_one_pooled_connection(port: PydanticAIPort, openai: OpenAIServer) -> None:
    for model in ("openai:one", "openai:two", "openai-responses:three", "openai:one"):
        await port.request(ask(model))
    assert len(openai.requests) == 4
    assert openai.connections == 1


async def test_many_requests_run_side_by_side(port: PydanticAIPort, openai: OpenAIServer) -> None:
    openai.first_token_s = 0.3
    await asyncio.gather(*(port.request(ask(OPENAI, f"number {number}")) for number in range(20)))
    assert openai.busiest >= 15


async def test_a_closed_port_opens_again(port: PydanticAIPort, openai: OpenAIServer) -> None:
    await port.request(ask(OPENAI))
    await port.aclose()
    await port.aclose()
    assert (await port.request(ask(OPENAI))).text


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("anthropic:claude-x", "ANTHROPIC_API_KEY"),
        ("openai:gpt-5.1", "OPENAI_API_KEY"),
        ("opanai:gpt-5.1", "did you mean 'openai'"),
        ("gpt-5.1", "provider:name"),
    ],
)
async def test_a_model_that_cannot_be_asked_says_what_to_set(model: str, says: str) -> None:
    port = PydanticAIPort(env={})
    with pytest.raises(ModelRefused, match=says):
        await port.request(ask(model))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with OpenAIServer() as gone:
        url = gone.base_url
    port = PydanticAIPort(env={"OPENAI_BASE_URL": url})
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        await port.request(ask("openai:any"))
    await port.aclose()


async def test_a_proxy_s_login_page_is_a_bad_reply(port: PydanticAIPort, openai: OpenAIServer) -> None:
    openai.will(openai_server.a_web_page, openai_server.not_the_protocol)
    for _ in range(2):
        with pytest.raises(BadReply):
            await port.request(ask(OPENAI))


async def test_an_older_model_is_told_the_schema_in_words(port: PydanticAIPort, anthropic: AnthropicServer) -> None:
    anthropic.says = Says(text='{"fine": true, "why": "yes"}')
    reply = await port.request(ask("anthropic:claude-3-haiku-20240307", output=VERDICT))
    assert reply.data == {"fine": True, "why": "yes"}
    assert "additionalProperties" in str(anthropic.requests[0].json()["system"])
