"""What one web process takes on: so many replies, however many messages come at once, and nothing when it stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from uuid import uuid4

import pytest

from accounts.problems import Unavailable
from agents.chat import conversations, host
from agents.chat.exchange import Begun, Said
from agents.chat.host import ChatHost
from agents.models import Message
from jobs.host import Host
from tests.support.chat import Page, Web, sign_in, until
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says
from tests.support.people import person
from tests.support.processes import Processes, database_for_a_module

SLOTS, AT_ONCE = 2, 10
CONFIG = f"""
agents:
  helper: {{version: 1, instructions: Help., model: openai:test}}
endpoints:
  chat.v1: {{agent: helper, mode: streaming-sync}}
lanes: {{chat: {{slots: {SLOTS}}}}}
"""
SOON_S = 30.0


_module_database, transactional_db, _database = database_for_a_module()


def test_messages_that_come_at_the_same_moment_do_not_slip_past_the_ceiling() -> None:
    load(CONFIG)
    with ExitStack() as stack:
        model = stack.enter_context(OpenAIServer())
        model.says, model.first_token_s = Says("Soon."), SOON_S  # nobody is done before all have asked
        web = Web(stack.enter_context(Processes()), model.base_url, environment={"ASTRA_GRACE_S": "0"})
        people = [person(f"person-{uuid4()}") for _ in range(AT_ONCE)]
        pages = [stack.enter_context(Page(web, conversations.create(one, "chat.v1"), sign_in(one))) for one in people]
        said = [(page, page.say()) for page in pages]
        until(pages, lambda: all(page.errors or page.answer_to(client_id) for page, client_id in said), within_s=SOON_S)

        refused = [error for page in pages for error in page.errors]
        assert [error["problem"]["type"] for error in refused] == ["/problems/chat-full"] * (AT_ONCE - SLOTS)
        assert all(error["problem"]["retry_after_s"] > 0 for error in refused)
        assert Message.objects.filter(role="user").count() == SLOTS  # of those refused nothing was written

        page, client_id = next((page, client_id) for page, client_id in said if page.answer_to(client_id))
        page.say(client_id=client_id)  # its line was lost before it heard the answer, say
        page.until(lambda: len(page.of("run.accepted")) == 2, within_s=SOON_S)
        assert page.errors == []
        assert len(page.replies) == 1


def test_one_persons_messages_wait_for_each_other_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of one person's would else hold all connections of the process, waiting for that person's lock."""
    under_way: Counter[int] = Counter()
    most: Counter[int] = Counter()

    async def scenario() -> None:
        chat = ChatHost()
        serving = Host({"chat": 100})

        async def serves() -> Host:
            return serving

        async def begin(_: Host, said: Said) -> Begun:
            under_way[said.user_id] += 1
            most[said.user_id] = max(most[said.user_id], under_way[said.user_id])
            most.update({0: max(0, under_way.total() - most[0])})
            await asyncio.sleep(0)
            under_way[said.user_id] -= 1
            return Begun(uuid4(), uuid4(), "", None)

        monkeypatch.setattr(chat, "_serving", serves)
        monkeypatch.setattr(chat, "_begin", begin)
        messages = [Said(uuid4(), user_id, "Hello?", str(uuid4())) for user_id in (1, 1, 1, 2, 2, 2)]
        await asyncio.gather(*map(chat.send, messages))
        assert not chat._turns  # nobody is remembered

    asyncio.run(scenario())
    assert most == {1: 1, 2: 1, 0: 2}


def test_a_chat_that_stops_takes_nobody_in_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes in while it stops would not be sent away with the others, and hang until the process ends."""

    async def scenario() -> None:
        monkeypatch.setattr(host, "_current", ChatHost())
        assert host.current() is host._current
        await host.stop(0)
        with pytest.raises(Unavailable, match="being restarted"):
            host.current()

    asyncio.run(scenario())
