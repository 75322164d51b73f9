"""The tools `memory_write` and `memory_read`."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User

from agents.models import Memory
from agents.runtime.ports import ToolContext
from agents.tools import memory
from agents.tools.memory import memory_read, memory_write
from agents.tools.registry import Refused

pytestmark = pytest.mark.django_db(transaction=True)


def of(user: User | None, agent: str = "assistant") -> ToolContext:
    return ToolContext(run_id="r", user_id=user.pk if user else None, agent=agent, step_key="s", idempotency_key="k")


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def texts(found: dict[str, Any]) -> list[str]:
    return [one["text"] for one in found["memories"]]


async def test_what_was_written_is_found_by_any_of_its_words_in_any_form(ann: User) -> None:
    for text in ("My dog is called Rex.", "I like green tea.", "The booking is for Tuesday."):
        await memory_write(text, of(ann))
    assert texts(await memory_read(of(ann), "what are my dogs called?")) == ["My dog is called Rex."]
    assert texts(await memory_read(of(ann), "booked")) == ["The booking is for Tuesday."]
    assert set(texts(await memory_read(of(ann), "tea or dog"))) == {"My dog is called Rex.", "I like green tea."}


async def test_a_user_s_memory_is_nobody_else_s(ann: User, bob: User) -> None:
    await memory_write("My dog is called Rex.", of(ann))
    assert texts(await memory_read(of(bob), "dog")) == []
    assert texts(await memory_read(of(bob))) == []


async def test_every_agent_of_the_user_may_read_it(ann: User) -> None:
    await memory_write("My dog is called Rex.", of(ann, "assistant"))
    found = await memory_read(of(ann, "researcher"), "dog")
    assert [(one["text"], one["agent"]) for one in found["memories"]] == [("My dog is called Rex.", "assistant")]


async def test_writing_it_twice_keeps_it_once(ann: User) -> None:
    await memory_write("I like tea.", of(ann))
    assert "already" in (await memory_write(" I like tea. ", of(ann)))["note"]
    assert await Memory.objects.acount() == 1


async def test_without_a_query_the_newest_come_first(ann: User) -> None:
    for number in range(5):
        await memory_write(f"Fact {number}.", of(ann))
    assert texts(await memory_read(of(ann), limit=2)) == ["Fact 4.", "Fact 3."]


async def test_nothing_found_says_so(ann: User) -> None:
    assert "Nothing is remembered" in (await memory_read(of(ann), "zebra"))["note"]


async def test_without_a_user_it_is_refused_in_words() -> None:
    for attempt in (memory_write("x", of(None)), memory_read(of(None), "x")):
        with pytest.raises(Refused, match="nobody is signed in"):
            await attempt


@pytest.mark.parametrize("query", ["' | !", "a & b <-> (c", "\x00", "x" * 400, "tea:*", "!!"])
async def test_no_query_breaks_the_search(ann: User, query: str) -> None:
    await memory_write("I like tea.", of(ann))
    await memory_read(of(ann), query)


async def test_a_full_memory_refuses_more(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_PER_USER", 2)
    await memory_write("one", of(ann))
    await memory_write("two", of(ann))
    with pytest.raises(Refused, match="full"):
        await memory_write("three", of(ann))
