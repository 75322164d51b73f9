"""An open socket is looked at again, whatever went wrong the last time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

import pytest
from django.db import InterfaceError

from accounts.api_auth import Caller
from accounts.problems import Problem, Unauthenticated
from agents.chat import socket
from agents.chat.refusals import unavailable


@pytest.mark.parametrize(
    "mishap", [InterfaceError("connection already closed"), ValueError("odd"), unavailable("Away.")]
)
def test_who_is_signed_out_is_sent_away_though_an_earlier_look_failed(
    mishap: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception] = [mishap, mishap, Unauthenticated("Sign in again.")]

    async def identify(headers: Mapping[str, str], conversation_id: UUID) -> Caller:
        raise answers.pop(0)

    async def scenario() -> list[int]:
        consumer = socket.ChatConsumer()
        codes: list[int] = []
        monkeypatch.setattr(consumer, "send_away", codes.append)
        async with asyncio.timeout(10):
            await consumer._recheck({})
        return codes

    monkeypatch.setattr(socket, "_identify", identify)
    monkeypatch.setattr(socket, "RECHECK_S", 0.0)
    assert asyncio.run(scenario()) == [socket.SIGN_IN]


def test_a_connection_that_broke_is_an_outage_and_not_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(headers: Mapping[str, str], conversation_id: UUID) -> Caller:
        raise InterfaceError("connection already closed")

    monkeypatch.setattr(socket, "_identify_in_thread", broken)
    with pytest.raises(Problem) as refusal:
        asyncio.run(socket._identify({}, UUID(int=0)))
    assert refusal.value.status == 503
