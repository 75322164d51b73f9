"""The demo model: what it asks for, what it says of what comes back, and that it is always the same."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agents.chat.views import EXAMPLES
from agents.llm.demo import DemoModel, answer
from agents.llm.port import PydanticAIPort
from agents.programs.compaction import SUMMED_UP
from agents.runtime.ports import Delta
from agents.runtime.types import Message, ModelCall, Reply, ToolCall, ToolResult, ToolSpec


def spec(name: str, **properties: Any) -> ToolSpec:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolSpec(name=name, description=name, parameters=parameters)


TOOLS = (
    spec("web_crawl", url={"type": "string"}),
    spec("memory_write", text={"type": "string"}),
    spec("memory_read"),
    spec("file_read"),
)


def ask(text: str, *more: Message, **options: Any) -> ModelCall:
    messages = (Message(role="system", text="Be kind."), Message(role="user", text=text), *more)
    return ModelCall(**{"model": "demo", "messages": messages, "tools": TOOLS, "max_tokens": 2000, **options})


def wanted(text: str, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call.tool, call.arguments) for call in answer(ask(text, **options)).calls]


def after(text: str, tool: str, content: Any, *, ok: bool = True, error: str | None = None) -> str:
    """What it says once its first tool call returned ``content``."""
    made = ToolCall(id="1", tool=tool)
    result = ToolResult(call_id="1", tool=tool, ok=ok, content=content, error=error)
    return answer(ask(text, Message(role="assistant", calls=(made,)), Message(role="tool", results=(result,)))).text


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("remember that my dog is called Rex", [("memory_write", {"text": "My dog is called Rex."})]),
        ("Can you remember that I live in Oslo?", [("memory_write", {"text": "I live in Oslo."})]),
        ("Don't forget to buy milk", [("memory_write", {"text": "Buy milk."})]),
        ("What do you remember about my dog?", [("memory_read", {"query": "my dog"})]),
        ("what do you remember?", [("memory_read", {})]),
        ("What is my dog called?", [("memory_read", {"query": "What is my dog called"})]),
        ("read file notes.txt", [("file_read", {"path": "notes.txt"})]),
        ("When do we ship according to plans/notes.md?", [("file_read", {"path": "plans/notes.md"})]),
        ("List the files", [("file_read", {"path": "."})]),
        ("what files are there in reports?", [("file_read", {"path": "reports"})]),
        (
            "Read https://example.org/docs and tell me how vacuum works.",
            [("web_crawl", {"url": "https://example.org/docs", "question": "how vacuum works"})],
        ),
        (
            "What does https://example.org/ (10 pages) say about backups?",
            [("web_crawl", {"url": "https://example.org/", "question": "backups", "max_pages": 10})],
        ),
        ("https://a.org/x, https://b.org/y", [("web_crawl", {"url": "https://a.org/x"}), ("web_crawl", {"url": "https://b.org/y"})]),
        (
            "Remember that I like tea. Then read a.txt and list the files.",
            [("memory_write", {"text": "I like tea."}), ("file_read", {"path": "a.txt"}), ("file_read", {"path": "."})],
        ),
        ("Hello!", []),
        ("What is the capital of France?", []),
        ("Version 3.11 is e.g. newer than 3.10", []),
    ],
)  # fmt: skip
def test_tools_are_chosen_by_what_the_user_writes(text: str, calls: list[Any]) -> None:
    assert wanted(text) == calls


def test_only_tools_that_are_offered_are_asked_for() -> None:
    assert wanted("read file notes.txt", tools=TOOLS[:2]) == []
    assert wanted("read file notes.txt", tool_choice="none") == []


def test_a_tool_of_one_s_own_is_called_when_it_is_named() -> None:
    fields = {"order": {"type": "string"}, "amount": {"type": "number"}, "reason": {"enum": ["late", "broken"]}}
    refund = spec("issue_refund", **fields)
    assert wanted("Please issue a refund of 12.50 for order 'A-17', it came broken", tools=(refund,)) == [
        ("issue_refund", {"order": "A-17", "amount": 12.5, "reason": "broken"})
    ]


def test_a_required_tool_is_called_whatever_is_said() -> None:
    assert wanted("hm", tool_choice="required")[0][0] == "web_crawl"


def test_a_call_is_not_repeated_once_it_returned() -> None:
    made = ToolCall(id="1", tool="file_read", arguments={"path": "a.txt"})
    result = ToolResult(call_id="1", tool="file_read", content={"path": "a.txt", "text": "Hi there.", "bytes": 9})
    reply = answer(ask("read a.txt", Message(role="assistant", calls=(made,)), Message(role="tool", results=(result,))))
    assert not reply.calls
    assert "> Hi there." in reply.text


def test_what_depends_on_a_result_is_asked_for_after_it() -> None:
    text = "Read notes.txt and remember what it says"
    assert wanted(text) == [("file_read", {"path": "notes.txt"})]
    made = ToolCall(id="1", tool="file_read", arguments={"path": "notes.txt"})
    result = ToolResult(call_id="1", tool="file_read", content={"text": "The gate opens at nine each morning."})
    then = answer(ask(text, Message(role="assistant", calls=(made,)), Message(role="tool", results=(result,))))
    assert [(call.tool, call.arguments) for call in then.calls] == [
        ("memory_write", {"text": "The gate opens at nine each morning."})
    ]


def test_a_crawl_is_answered_with_quotes_and_where_they_stand() -> None:
    pages = [
        {
            "url": "http://h/beacon",
            "title": "The [beacon]",
            "passages": [{"text": "Gulls nest on the pier. The beacon is lit when the wind exceeds forty knots."}],
        },
        {"url": "http://h/other", "title": "Other", "passages": []},
    ]
    said = after("When is the beacon lit? http://h/", "web_crawl", {"pages": pages, "frontier": [], "skipped": []})
    assert "The beacon is lit when the wind exceeds forty knots. ([The beacon](http://h/beacon))" in said
    assert "Gulls" not in said
    assert "demo model" in said


def test_a_failed_tool_is_said_plainly() -> None:
    said = after("read a.txt", "file_read", "There is no a.txt in the shared folder.", ok=False, error="not-found")
    assert "There is no a.txt in the shared folder." in said


def test_memories_are_listed() -> None:
    assert "- I like tea." in after("what do you remember?", "memory_read", {"memories": [{"text": "I like tea."}]})
    note = "Nothing is remembered about: cats"
    assert note in after("what do you remember about cats?", "memory_read", {"memories": [], "note": note})


def test_a_long_file_is_summed_up_by_its_own_sentences() -> None:
    text = "The release is planned for December. " + "The weather is a subject of many talks. " * 20
    content = {"path": "plan.txt", "text": text, "bytes": len(text)}
    said = after("When is the release? See plan.txt", "file_read", content)
    assert "- The release is planned for December." in said


@pytest.mark.parametrize("text", ["Hi", "What can you do?", "who are you?", "help", "What is the capital of France?"])
def test_it_says_that_it_is_a_demo_and_how_to_get_a_real_model(text: str) -> None:
    said = answer(ask(text)).text
    assert "demo model" in said
    assert "ASTRA_MODEL" in said
    assert "read web pages" in said


def test_it_knows_about_astra() -> None:
    said = answer(ask("What happens in Astra when a worker crashes?")).text
    assert "another process goes on from the last recorded step" in said


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_answers_the_examples_that_the_page_offers(example: str) -> None:
    reply = answer(ask(example))
    said = reply.text
    if example.startswith("How does Astra go on"):
        assert said.startswith("Every step of a run is recorded as it finishes. When a worker dies, another process")
    else:
        assert reply.calls or "read web pages" in said


def test_a_pasted_text_is_summed_up() -> None:
    text = "Summarise this: " + " ".join(f"The mill number {n} grinds {n} sacks of corn each day." for n in range(12))
    assert "In its own words" in answer(ask(text)).text


def test_a_short_text_is_summed_up_too_even_one_about_astra() -> None:
    said = answer(
        ask("Summarise: Astra is a queue. It keeps promises. Cats like fish. The queue of Astra is good.")
    ).text
    assert said.startswith("In its own words:\n\n- ")
    assert "Astra" in said.split("_(")[0]
    assert "Summarise" not in said
    assert "invoke it in four ways" not in said


def test_what_was_said_before_is_quoted() -> None:
    messages = (
        Message(role="user", text="Our gate opens at nine."),
        Message(role="assistant", text="Good to know."),
        Message(role="user", text="At which hour does the gate open?"),
    )
    assert "Our gate opens at nine." in answer(ModelCall(model="demo", messages=messages, max_tokens=500)).text


def chat(*said: str, tools: Any = TOOLS) -> Reply:
    """Let it answer the last of what a user and it said in turns."""
    messages = tuple(Message(role="assistant" if at % 2 else "user", text=text) for at, text in enumerate(said))
    return answer(ModelCall(model="demo", messages=messages, tools=tools, max_tokens=4000))


@pytest.mark.parametrize(
    ("asked", "quoted"),
    [
        ("What did I say before?", ["1. I have a dog.", "2. It is called Rex."]),
        ("what have I said so far", ["1. I have a dog.", "2. It is called Rex."]),
        ("Summarise our conversation", ["1. I have a dog.", "2. It is called Rex."]),
        ("What was my first message?", ["> I have a dog."]),
        ("what did i just say?", ["> It is called Rex."]),
        ("What did you say?", ["> A fine name."]),
        ("Repeat your last answer", ["> A fine name."]),
    ],
)
def test_it_says_what_was_said_before(asked: str, quoted: list[str]) -> None:
    reply = chat("I have a dog.", "Lovely.", "It is called Rex.", "A fine name.", asked)
    assert not reply.calls, "this is no matter of the memory"
    lines = reply.text.splitlines()
    assert [line for line in lines if line[:2] in ("1.", "2.", "> ")] == quoted


def test_it_says_when_nothing_was_said_before() -> None:
    assert "this is the beginning of our conversation" in chat("What did I say before?").text


def test_a_long_conversation_is_listed_by_its_latest_messages_and_the_summary_of_the_rest() -> None:
    said = [text for number in range(9) for text in (f"Message {number}.", "Well.")]
    summary = f"{SUMMED_UP}- The user said: I am Ann."
    text = chat(summary, "", *said, "What did I say before?").text
    assert "9 messages, the last of them" in text
    assert "4. Message 3." in text
    assert "Message 2." not in text
    assert "> - The user said: I am Ann." in text


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        ("What is 12 * 7?", "12 * 7 = 84"),
        ("(2+3)×4", "(2+3)×4 = 20"),
        ("1/8 =", "1/8 = 0.125"),
        ("How much is 3 - -5", "3 - -5 = 8"),
    ],
)
def test_it_does_sums(asked: str, result: str) -> None:
    assert chat(asked).text.startswith(result)


@pytest.mark.parametrize(
    "asked",
    ["1/0", "7", "2026-11-21", "555-1234", "9" * 99, "1 + ", "call 555-1234", "2**9**9**9", "(" * 90, "1" * 5000],
)
def test_what_is_no_sum_is_not_taken_for_one(asked: str) -> None:
    assert " = " not in chat(asked).text


@pytest.mark.parametrize(
    "asked", ["Show me a long answer", "show me markdown", "Please write a longer text.", "Show a code block"]
)
def test_it_writes_at_length_when_asked(asked: str) -> None:
    reply = chat(asked)
    assert not reply.calls
    assert len(reply.text) > 3_000
    for mark in ("# ", "| mode |", "```python", "> ", "1. ", "- **"):
        assert any(line.startswith(mark) for line in reply.text.splitlines()), mark
    assert "no language model" in reply.text


def test_it_introduces_itself_at_length_only_once() -> None:
    first = chat("Hello!").text
    again = chat("Hello!", first, "What is the capital of France?").text
    assert "ASTRA_MODEL" in again
    assert len(again) < 300 < len(first)


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"sentiment": {"enum": ["good", "bad"]}}, {"sentiment": "bad"}),
        (
            {"email": {"type": "string"}, "amount": {"type": "number"}},
            {"email": "ann@example.org", "amount": 12.5},
        ),
        (
            {"author_name": {"type": "string"}, "is_fine": {"type": "boolean"}},
            {"author_name": "Ann Olsen", "is_fine": False},
        ),
    ],
)
def test_structured_answers_are_filled_from_the_text(fields: dict[str, Any], data: dict[str, Any]) -> None:
    text = "This is bad and not fine, writes Ann Olsen <ann@example.org>. The amount is 12.5 euros."
    reply = answer(ask(text, output={"type": "object", "properties": fields}, tools=()))
    assert reply.data == data
    assert json.loads(reply.text) == data


SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from(
        [
            {"type": "string"}, {"type": "string", "minLength": 3, "maxLength": 9}, {"type": "boolean"},
            {"type": "integer", "minimum": 1, "maximum": 5}, {"type": "number"}, {"enum": ["a", 2, None]},
            {"const": "x"}, {"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": ["null", "integer"]},
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": one, "minItems": 1}),
        st.dictionaries(st.sampled_from(["name", "tags", "total", "why", "when"]), inner, max_size=3).map(
            lambda fields: {"type": "object", "properties": fields, "required": list(fields)}
        ),
    ),
    max_leaves=6,
)  # fmt: skip


@hypothesis_settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.text(max_size=80))
def test_a_structured_answer_always_fits_its_schema(schema: dict[str, Any], text: str) -> None:
    data = answer(ask(f"{text}.", output=schema, tools=())).data
    Draft202012Validator(schema).validate(data)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_whatever_is_said_it_answers_and_always_the_same(text: str) -> None:
    first, second = answer(ask(text)), answer(ask(text))
    assert first == second
    assert first.text or first.calls


def test_calls_have_ids_of_their_own() -> None:
    ids = [call.id for call in answer(ask("https://a.org https://b.org")).calls]
    assert len(set(ids)) == 2
    assert ids == [call.id for call in answer(ask("https://a.org https://b.org")).calls]


def test_max_tokens_cuts_the_reply_and_says_so() -> None:
    reply = answer(ask("What can you do?", max_tokens=10))
    assert (reply.finish, reply.usage.output_tokens) == ("length", 10)
    assert len(reply.text) <= 40


async def test_it_streams_token_by_token() -> None:
    items = []
    async with aclosing(DemoModel(delay_s=0.0, first_token_s=0.0).stream(ask("Hello!"))) as stream:
        async for item in stream:
            items.append(item)  # noqa: PERF401 (plain to read)
    reply = items[-1]
    assert isinstance(reply, Reply)
    assert len(items) > 20
    assert "".join(item.text for item in items if isinstance(item, Delta)) == reply.text


async def test_its_pace_can_be_set() -> None:
    began = time.monotonic()
    async with aclosing(DemoModel(delay_s=0.005, first_token_s=0.1).stream(ask("thanks!"))) as stream:
        first = await anext(stream)
        assert isinstance(first, Delta)
        assert time.monotonic() - began >= 0.1


async def test_the_port_speaks_to_it_without_a_key_and_for_nothing() -> None:
    reply = await PydanticAIPort(env={}, demo=DemoModel(first_token_s=0)).request(ask("Hello!"))
    assert (reply.model, reply.usage.cost_usd) == ("demo", Decimal(0))
    assert reply.usage.input_tokens > 50
    assert reply.usage.output_tokens > 50
