"""No body stops the web server: one that is too large is refused as it comes, and none is parsed on the event loop."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from astra_site.bodies import MAX_BYTES
from tests.roof.test_drain import DEADLINE_S, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A web process that answers at once."""
    file = tmp_path / "go"
    file.touch()
    made = Site(file, 0)
    yield made
    made.process.kill()
    made.process.wait()


def test_a_body_that_is_declared_too_large_is_refused_before_it_comes(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), DEADLINE_S) as client:
        head = f"POST /slow HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n"
        client.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}"):
            piece = client.recv(4096)
            assert piece, answer
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 413 ")
    assert "X-Request-ID: mine" in head
    assert json.loads(body)["type"] == "/problems/payload-too-large"


def test_a_body_of_no_declared_length_is_refused_when_there_is_too_much_of_it(site: Site) -> None:
    pieces = (b"x" * 65_536 for _ in range(MAX_BYTES // 65_536 + 1))
    answer = httpx.post(f"{site.url}/slow", content=pieces, timeout=DEADLINE_S)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_the_largest_body_there_may_be_reaches_the_application(site: Site) -> None:
    answer = httpx.post(f"{site.url}/slow", content=b"x" * MAX_BYTES, timeout=DEADLINE_S)
    assert (answer.status_code, answer.text) == (200, "at last")


def test_a_form_is_left_to_the_application(site: Site) -> None:
    # Twisted, which would parse it on the event loop, refuses this one.
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{site.url}/slow", content=b"no form", headers=kind, timeout=DEADLINE_S)
    assert answer.status_code == 200
