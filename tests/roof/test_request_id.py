"""Every response has a request id, and so has every log line written for it."""

from __future__ import annotations

import logging

import pytest
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from django.test import AsyncClient, Client

from astra_site import request_id
from astra_site.logs import LineFormatter
from tests.roof.asgi_call import call

OFFERED = "order-42:retry.1"


@pytest.mark.parametrize("offered", [OFFERED, "x" * 128])
def test_a_sane_id_is_taken_over(client: Client, offered: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": offered})["X-Request-ID"] == offered


@pytest.mark.parametrize("offered", ["", "with blank", "x" * 129, "a\tb", "ñ", "<script>"])
def test_any_other_id_is_replaced(client: Client, offered: str) -> None:
    answered = client.get("/healthz", headers={"X-Request-ID": offered})["X-Request-ID"]
    assert answered != offered
    assert request_id.SANE.fullmatch(answered)


def test_two_requests_have_two_ids(client: Client) -> None:
    assert client.get("/healthz")["X-Request-ID"] != client.get("/healthz")["X-Request-ID"]


async def test_it_works_on_the_event_loop_too(async_client: AsyncClient) -> None:
    response = await async_client.get("/healthz", headers={"X-Request-ID": OFFERED})
    assert response["X-Request-ID"] == OFFERED
    assert request_id.current() == ""


async def test_what_does_not_pass_through_django_has_one_as_well() -> None:
    seen: list[str] = []

    async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        seen.append(request_id.current())
        await send({"type": "http.response.start", "status": 204, "headers": [], "trailers": False})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    wrapped = request_id.on_responses(application)
    status, headers, _ = await call(wrapped, "/anything", headers={"X-Request-ID": OFFERED})
    assert (status, headers) == (204, {"x-request-id": OFFERED})
    assert seen == [OFFERED]


def test_a_log_line_carries_the_action_its_extras_and_the_request_id() -> None:
    record = logging.makeLogRecord({"msg": "claimed %s", "args": ("a job",), "name": "jobs.claim", "levelname": "INFO"})
    record.action = "claim"
    record.lane = "two words"
    token = request_id.begin(OFFERED)
    try:
        line = LineFormatter().format(record)
    finally:
        request_id.end(token)
    assert line.split(" ", 1)[1].split(" ", 2)[2] == (
        f"jobs.claim: claimed a job action=claim lane='two words' request_id={OFFERED}"
    )


def test_what_a_stranger_wrote_begins_no_line_of_its_own_and_commands_no_terminal() -> None:
    record = logging.makeLogRecord(
        {"msg": "said %s", "args": ("a\r\n12:00 ERROR\x1b[2J\u2028\x85",), "levelname": "INFO"}
    )
    line = LineFormatter().format(record)
    assert line.isprintable()
    assert line.endswith(r"said a\r\n12:00 ERROR\x1b[2J\u2028\x85")


def test_a_log_line_shows_the_traceback_below() -> None:
    try:
        raise ValueError("oh\nno")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "oh", "exc_info": (ValueError, error, error.__traceback__)})
    first, *below = LineFormatter().format(record).split("\n")
    assert first.endswith("oh")
    assert below[-2:] == ["  ValueError: oh", "  no"]
    assert all(line.startswith("  ") for line in below)


@pytest.mark.parametrize("after", ["", "/", "?next=/", "/ is refused"])
def test_no_log_line_holds_a_link_that_decides(after: str) -> None:
    record = logging.makeLogRecord({"msg": "Forbidden: %s", "args": (f"/approvals/link/WyIw.MWEx:-_x{after}",)})
    record.path = f"/approvals/link/WyIw.MWEx:-_x{after}"
    line = LineFormatter().format(record)
    assert "WyIw" not in line
    assert f"Forbidden: /approvals/link/…{after}" in line
