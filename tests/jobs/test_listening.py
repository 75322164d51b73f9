"""The client to listen with: a line that is cut without a word must not stay unnoticed."""

from __future__ import annotations

import socket

import pytest
from django.conf import settings

from jobs import wakeups


async def test_a_listener_over_a_network_lets_the_kernel_ask_whether_the_other_side_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "redis://127.0.0.1:1/0")
    async with wakeups.listener() as client:
        given = client.connection_pool.connection_kwargs
    assert given["socket_keepalive"] is True
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as line:
        for option, value in given["socket_keepalive_options"].items():
            line.setsockopt(socket.IPPROTO_TCP, option, value)  # the kernel knows each of them
    assert given["socket_keepalive_options"]


async def test_a_listener_on_this_machine_needs_no_such_question() -> None:
    assert settings.REDIS_URL.startswith("unix:")
    async with wakeups.listener() as client:
        assert await client.ping()
