"""What surrounds Django in a web process."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connection

from astra_site import asgi
from tests.roof.asgi_call import call


class BrokenOff(Exception):
    """A stream ended in an error."""


@pytest.mark.django_db(transaction=True)
async def test_an_answer_that_breaks_off_gives_its_connection_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def take() -> None:
        connection.ensure_connection()
        given.append(connection.pool)  # type: ignore[attr-defined]
        given.append(given[0].get_stats())

    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        async with ThreadSensitiveContext():
            await sync_to_async(take)()
            raise BrokenOff

    monkeypatch.setattr(asgi, "django", breaks_off)
    with pytest.raises(BrokenOff):
        await call(asgi.application, "/console/")
    pool, before = given
    after = pool.get_stats()
    assert after["pool_size"] - after["pool_available"] == before["pool_size"] - before["pool_available"] - 1
