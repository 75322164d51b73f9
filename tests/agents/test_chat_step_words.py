"""What a step of an answer is called by the people who wait for it."""

from __future__ import annotations

from typing import Any

import pytest

from agents.chat.step_words import arguments_of, decision_words, result_of, words

URL = {"url": "https://docs.example.com:8080/a?b=c"}


def given(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


def came(content: Any, *, ok: bool = True) -> dict[str, Any]:
    return {"tool": "t", "call_id": "1", "ok": ok, "error": None if ok else "timeout", "content": content}


@pytest.mark.parametrize(
    ("name", "call", "output", "told"),
    [
        ("web_crawl", None, None, "Reading web pages"),
        ("web_crawl", given("web_crawl", **URL), None, "Reading docs.example.com"),
        ("web_crawl", given("web_crawl", **URL), came({"pages": [1]}), "Read 1 page of docs.example.com"),
        ("web_crawl", given("web_crawl", **URL), came({"pages": []}), "Read 0 pages of docs.example.com"),
        ("web_crawl", given("web_crawl", **URL), came("x", ok=False), "Could not read the web page: docs.example.com"),
        ("web_crawl", given("web_crawl", url="http://[bad"), came({}), "Read pages"),
        ("web_crawl", given("web_crawl", url=7), came(None), "Read pages"),
        ("memory_read", given("memory_read", query="x"), came({}), "Looked up what it remembers"),
        ("memory_write", given("memory_write", text="Tuesday"), came({}), "Remembered “Tuesday”"),
        ("file_read", given("file_read", path="a/notes.txt"), came({"text": "x"}), "Read a/notes.txt"),
        ("file_read", given("file_read", path=""), came({"entries": [], "path": "."}), "Listed the files of ."),
        ("order_lookup", given("order_lookup", order_id="A-1001"), came({}), "Looked up order A-1001"),
        ("refund", given("refund", order_id="A-1001", amount_usd=5), came({}), "Refunded order A-1001"),
        (
            "refund",
            given("refund", order_id="A-1", amount_usd=5),
            came("no", ok=False),
            "Did not refund the order: A-1",
        ),
        ("verify answer", {"characters": 1}, {"ok": True, "reason": "", "instead": ""}, "Checked the answer"),
        (
            "verify answer",
            {"characters": 1},
            {"ok": False, "reason": "y", "instead": "z"},
            "Replaced an answer that did not stand up to its check",
        ),
        ("look_up_order", None, None, "Using look up order"),
        ("look_up_order", given("look_up_order", id=7, code="A7"), came({}), "Used look up order “A7”"),
        ("look_up_order", given("look_up_order"), came("no", ok=False), "Look up order failed"),
        ("", None, None, "Using a tool"),
        ("t", ["not", "a", "call"], ["not", "a", "result"], "Using t"),
        ("t", given("t", text="word\n" * 100), came({}), "Used t “" + ("word " * 16)[:79] + "…”"),
    ],
)
def test_a_call_is_told_in_a_line(name: str, call: Any, output: Any, told: str) -> None:
    assert words(name, call, output) == told


def test_what_a_person_opens_is_the_call_and_its_result_without_the_journals_wrapping() -> None:
    assert arguments_of(given("t", a=1)) == {"a": 1}
    assert arguments_of({"preview": "…", "characters": 9}) == {"preview": "…", "characters": 9}
    assert arguments_of(None) is None
    assert result_of(came({"a": 1})) == {"a": 1}
    assert result_of(came("Too slow", ok=False)) == {"error": "timeout", "message": "Too slow"}
    assert result_of("a step's own") == "a step's own"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"decision": "approve", "by": ["rita"]}, "Approved by rita"),
        ({"decision": "approve_with_changes", "by": ["rita", "ralf"]}, "Approved with changes by rita, ralf"),
        ({"decision": "request_changes", "by": ["rita"], "comment": "Half"}, "Changes requested by rita: Half"),
        ({"decision": "reject", "by": [], "comment": "Nobody decided"}, "Rejected: Nobody decided"),
    ],
)
def test_a_decision_is_told_as_something_that_was_done(output: Any, told: str) -> None:
    assert decision_words({"approval_id": "1", **output}) == told
