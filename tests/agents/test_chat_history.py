from __future__ import annotations

from uuid import uuid4

import pytest

from agents.chat import history
from agents.models import Conversation, Message
from agents.programs.loop import conversation as as_messages
from jobs import script
from tests.support.chats import CHATS, conversation
from tests.support.configs import loaded

pytestmark = pytest.mark.django_db


_loaded = loaded(CHATS)


@pytest.fixture
def it(db: None) -> Conversation:
    return conversation()


def write(it: Conversation, *messages: str, status: str = "done") -> None:
    """Write messages, alternately of the user and the assistant; an assistant's has the status."""
    first = Message.objects.filter(conversation=it).count() + 1
    for place, text in enumerate(messages, first):
        role = "assistant" if place % 2 == 0 else "user"
        Message.objects.create(
            conversation=it, place=place, role=role, text=text, status=status if role == "assistant" else "done"
        )


def read(it: Conversation, before: int = 10_000) -> list[str]:
    found = script.run(history.read(it.pk, before))
    assert all(set(item) == {"role", "text"} for item in found)
    return [f"{item['role'][0]}:{item['text']}" for item in found]


def keep(it: Conversation, before: int, messages: int, text: str) -> tuple[str, int]:
    script.run(history.keep_summary(it.pk, before, messages, text))
    it.refresh_from_db()
    return it.summary, it.summary_through


def test_what_was_said_before_a_message_is_read_in_its_order(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five")
    assert read(it, 5) == ["u:one", "a:two", "u:three", "a:four"]
    assert read(it, 1) == []


def test_another_conversation_is_not_read(it: Conversation) -> None:
    write(conversation("bob"), "one", "two")
    assert read(it) == []
    assert script.run(history.read(uuid4(), 5)) == []


def test_a_stopped_reply_is_there_and_a_failed_or_empty_one_is_not(it: Conversation) -> None:
    write(it, "one", "half a", status="stopped")
    write(it, "three", "broken", status="failed")
    write(it, "five", "", status="stopped")
    write(it, "seven", " \n ")
    write(it, "nine", "so far", status="writing")
    assert read(it) == ["u:one", "a:half a", "u:three", "u:five", "u:seven", "u:nine"]


def test_only_the_newest_messages_are_read(it: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_MESSAGES", 3)
    write(it, "one", "two", "three", "four")
    assert read(it) == ["a:two", "u:three", "a:four"]


def test_only_so_many_characters_are_read(it: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_CHARACTERS", 10)
    write(it, "1234", "12345", "12345")
    assert read(it) == ["a:12345", "u:12345"]
    write(it, "a text that is longer than all that may be read")
    assert read(it) == ["a:a text tha"]


def test_a_summary_stands_for_what_it_sums_up_and_says_what_it_is(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five")
    assert keep(it, 5, 2, "They counted to two.") == ("They counted to two.", 2)
    first, *rest = read(it)
    assert first.startswith("u:[This conversation has grown long.")
    assert first.endswith("They counted to two.")
    assert rest == ["u:three", "a:four", "u:five"]


def test_a_summary_of_a_summary_grows(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five", "six", "seven")
    keep(it, 5, 2, "To two.")
    assert keep(it, 7, 3, "To four.") == ("To four.", 4), "the summary is one of the three"
    assert keep(it, 7, 1, "Nothing new.") == ("To four.", 4)
    assert keep(it, 7, 99, "To six.") == ("To six.", 6)


def test_a_summary_never_shrinks_and_never_says_nothing(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five")
    keep(it, 5, 4, "To four.")
    assert keep(it, 5, 2, "To two.") == ("To four.", 4)
    assert keep(it, 6, 0, "None.") == ("To four.", 4)
    assert keep(it, 6, -1, "None.") == ("To four.", 4)
    assert keep(it, 6, 2, " \n") == ("To four.", 4)
    script.run(history.keep_summary(uuid4(), 5, 2, "Gone."))


def test_a_summary_counts_the_messages_that_the_program_got(it: Conversation) -> None:
    write(it, "one", "", status="stopped")
    write(it, "three", "broken", status="failed")
    write(it, "five", "six", "seven")
    assert read(it, 7) == ["u:one", "u:three", "u:five", "a:six"]
    assert keep(it, 7, 3, "To five.") == ("To five.", 5)
    assert read(it, 7)[1:] == ["a:six"]


def test_an_old_message_that_is_answered_again_gets_no_summary_of_what_came_later(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five", "six", "seven")
    keep(it, 7, 5, "To five.")
    assert read(it, 3) == ["u:one", "a:two"]


def test_a_history_is_what_the_shipped_program_takes(it: Conversation) -> None:
    write(it, "one", "two", "three", "four", "five")
    keep(it, 5, 2, "To two.")
    taken = as_messages({"message": "Now?", "history": script.run(history.read(it.pk, 5))})
    assert [message.role for message in taken] == ["user", "user", "assistant", "user"]
