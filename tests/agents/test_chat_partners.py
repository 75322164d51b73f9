"""Whom one can talk to in a new chat: the usual agent, or another that `astra.yml` offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client

from accounts import roles
from agents import registry
from agents.chat import host
from agents.chat.views import EXAMPLES, EXAMPLES_FOR
from agents.llm.demo import answer
from agents.models import Conversation
from agents.runtime.types import Message, ModelCall
from agents.tools import catalog
from tests.support.configs import HELP_AND_TALK, load
from tests.support.people import person
from tests.support.shop import SHIPPED

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _shipped(db: None) -> Iterator[None]:
    registry.load(SHIPPED)
    yield
    registry.forget()


@pytest.fixture
def client() -> Client:
    found = Client()
    found.force_login(person("ulla", roles.USER))
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the pages hand to the chat of the web process: this one runs none."""
    found: list[str] = []

    def send(conversation_id: UUID, user: Any, text: str, client_id: str) -> UUID:
        found.append(text)
        return uuid4()

    monkeypatch.setattr(host, "send_from_thread", send)
    return found


def test_the_first_page_offers_the_usual_agent_and_links_to_the_others(client: Client) -> None:
    page = client.get("/").content.decode()
    assert 'name="endpoint" value="chat.v1"' in page
    assert 'href="/?with=refunds-chat.v1"' in page
    assert EXAMPLES[0] in page


def test_another_agent_is_talked_to_where_one_chose_it(client: Client, sent: list[str]) -> None:
    page = client.get("/?with=refunds-chat.v1").content.decode()
    assert 'name="endpoint" value="refunds-chat.v1"' in page
    assert all(example in page for example in EXAMPLES_FOR["refunds-chat.v1"])
    client.post("/chat/", {"endpoint": "refunds-chat.v1", "example": EXAMPLES_FOR["refunds-chat.v1"][2]})
    assert Conversation.objects.get().endpoint.name == "refunds-chat.v1"
    assert sent == ["Refund order A-1001, 150 USD, it arrived broken."]


@pytest.mark.parametrize("name", ["", "refund.v1", "nobody.v1", "<b>"])
def test_what_one_cannot_talk_to_leads_to_the_usual_agent(client: Client, sent: list[str], name: str) -> None:
    page = client.get("/", {"with": name}).content.decode()
    assert 'name="endpoint" value="chat.v1"' in page
    client.post("/chat/", {"endpoint": name, "text": "Hello"})
    assert Conversation.objects.get().endpoint.name == "chat.v1"


def test_nobody_chooses_where_there_is_only_one(client: Client) -> None:
    load(HELP_AND_TALK)
    page = client.get("/").content.decode()
    assert "?with=" not in page
    assert 'name="endpoint" value="talk.v1"' in page


@pytest.mark.parametrize("example", EXAMPLES_FOR["refunds-chat.v1"])
def test_the_demo_model_looks_up_the_order_of_each_example(example: str) -> None:
    tools = tuple(catalog.load()[name].spec for name in ("order_lookup", "refund"))
    call = ModelCall(model="demo", messages=(Message(role="user", text=example),), tools=tools, max_tokens=500)
    (asked,) = answer(call).calls
    assert asked.tool == "order_lookup"
    assert asked.arguments["order_id"] in example
