"""The demo model as a clerk and as an author: what it asks for, and what it writes."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm import demo_posts
from agents.llm.demo import answer
from agents.llm.demo_shop import reason
from agents.programs.publisher import ASK_AGAIN, ASK_POST, ASK_TITLES, TITLES
from agents.runtime.types import Message, ModelCall, ToolCall, ToolResult
from agents.tools import catalog

TOOLS = tuple(catalog.load()[name].spec for name in ("order_lookup", "refund"))


def ask(*messages: Message, **more: Any) -> ModelCall:
    return ModelCall(**{"model": "demo", "messages": messages, "tools": TOOLS, "max_tokens": 4000, **more})


def user(text: str) -> Message:
    return Message(role="user", text=text)


def looked_up(number: str, left: float) -> list[Message]:
    call = ToolCall(id=number, tool="order_lookup", arguments={"order_id": number})
    order = {"order_id": number, "customer": "Ann", "item": "A kettle", "paid_usd": left, "refunded_usd": 0.0,
             "left_usd": left, "refunds": []}  # fmt: skip
    return [
        Message(role="assistant", calls=(call,)),
        Message(role="tool", results=(ToolResult(call_id=number, tool="order_lookup", content=order),)),
    ]


def wanted(text: str, left: float = 180) -> list[tuple[Any, Any]]:
    calls = answer(ask(user(text), *looked_up("A-1001", left))).calls
    return [(call.arguments["amount_usd"], call.arguments["reason"]) for call in calls]


@pytest.mark.parametrize(
    ("text", "amount", "why"),
    [
        ("Refund order A-1001, 150 USD, it arrived broken", 150, "It arrived broken."),
        ("Please refund $99.50 for a-1001 because the lid is missing.", 99.5, "The lid is missing."),
        ("I want my money back for order A-1001: the desk top came scratched", 180, "The desk top came scratched."),
        ("refund A-1001 20", 20, "The customer asked for it."),
        ("Could you pay me back 15 USD of A-1001", 15, "The customer asked for it."),
    ],
)
def test_what_is_asked_for_is_what_the_message_says(text: str, amount: float, why: str) -> None:
    assert wanted(text) == [(amount, why)]


@pytest.mark.parametrize(
    "text", ["What about order A-1001?", "Was A-1001 refunded?", "How much could you refund of A-1001?"]
)
def test_a_question_moves_no_money(text: str) -> None:
    assert wanted(text) == []


def test_more_than_is_left_is_not_asked_for() -> None:
    assert wanted("Refund order A-1001, 150 USD", left=100) == []


def test_an_order_named_before_is_the_one_that_is_meant() -> None:
    (call,) = answer(
        ask(user("What about order A-1001?"), Message(role="assistant", text="…"), user("Refund it"))
    ).calls
    assert (call.tool, call.arguments) == ("order_lookup", {"order_id": "A-1001"})


def test_a_refund_is_asked_for_once_in_a_run() -> None:
    call = ToolCall(id="r", tool="refund", arguments={"order_id": "A-1001", "amount_usd": 150, "reason": "x"})
    result = ToolResult(call_id="r", tool="refund", ok=False, error="rejected", content="A person rejected this call.")
    since = [
        *looked_up("A-1001", 180),
        Message(role="assistant", calls=(call,)),
        Message(role="tool", results=(result,)),
    ]
    reply = answer(ask(user("Refund order A-1001, 150 USD, it arrived broken"), *since))
    assert not reply.calls
    assert reply.text.startswith("I did not refund order A-1001: no money went out.")


def test_a_refund_that_a_person_found_out_about_is_told_in_their_words() -> None:
    call = ToolCall(id="r", tool="refund", arguments={"order_id": "A-1001", "amount_usd": 117, "reason": "x"})
    for content, told in (("The books show it.", "The books show it."), ({"seen": True}, "seen")):
        result = Message(role="tool", results=(ToolResult(call_id="r", tool="refund", content=content),))
        said = answer(
            ask(
                user("Refund order A-1001, 117 USD"),
                *looked_up("A-1001", 180),
                Message(role="assistant", calls=(call,)),
                result,
            )
        )
        assert "The refund of order A-1001 was made, as a person found out." in said.text and told in said.text


def test_a_reason_is_never_empty() -> None:
    assert reason("A-1001") == "The customer asked for it."


def test_as_many_posts_are_planned_as_were_asked_for_each_of_its_own() -> None:
    prompt = ASK_TITLES.format(topic="bread", audience="beginners", posts=20)
    posts = answer(ask(user(prompt), tools=(), output=TITLES)).data["posts"]
    assert len({post["title"] for post in posts}) == len({post["angle"] for post in posts}) == 20
    assert all("{" not in post["title"] for post in posts)


def test_every_post_is_readable_and_none_is_like_another() -> None:
    told = {"topic": "bread", "audience": "beginners", "title": "T"}
    bodies = {answer(ask(user(ASK_POST.format(**told, angle=one.angle)), tools=())).text for one in demo_posts.ANGLES}
    assert len(bodies) == len(demo_posts.ANGLES)
    assert all("bread" in body.lower() and "{" not in body and len(body.split()) > 60 for body in bodies)


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("Please add an example", "For example: "),
        ("Shorter", "- "),
        ("More wit", "cannot follow the comment “More wit”"),
    ],
)
def test_a_comment_changes_the_post(comment: str, told: str) -> None:
    given = {"topic": "bread", "audience": "beginners", "title": "T", "angle": demo_posts.ANGLES[0].angle}
    before = answer(ask(user(ASK_POST.format(**given)), tools=())).text
    after = answer(ask(user(ASK_AGAIN.format(**given, body=before, comment=comment)), tools=())).text
    assert after != before
    assert told in after
