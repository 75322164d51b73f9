"""WebSockets on a real web process: who gets in, and that neither side can fill the other's memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from astra_site import listening, sockets
from tests.support.processes import eventually
from tests.support.websocket import BINARY, CONTINUATION, PING, PONG, TEXT, Closed, Refused, WebSocket

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
FRAMES, LENGTH = 20_000, 1_000
until = partial(eventually, within_s=DEADLINE_S)


class Site:
    """A web process on a port of its own."""

    def __init__(self, **environment: str) -> None:
        listener = listening.listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.roof.socket_site", str(listener.fileno())],
            cwd=ROOT,
            env=os.environ
            | {"ASTRA_LOG_LEVEL": "ERROR", "DJANGO_SETTINGS_MODULE": "astra_site.settings"}
            | environment,
            pass_fds=[listener.fileno()],
        )
        listener.close()

    def chat(self, **headers: str) -> WebSocket:
        """Open the chat's address, from a page of the site unless the headers say otherwise."""
        named = {name.replace("_", "-"): value for name, value in {"Origin": self.origin, **headers}.items() if value}
        return WebSocket(self.port, f"/ws/chat/{uuid4()}/", named, host=named.pop("Host", ""))

    def state(self, path: str = "/state") -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.origin}{path}", timeout=DEADLINE_S).json()
        return found

    def memory(self) -> int:
        """Return the bytes of memory that the process uses."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    """One process for the tests that leave it as they found it."""
    site = Site()
    yield site
    site.process.kill()
    site.process.wait()


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**environment: str) -> Site:
        made.append(Site(**environment))
        return made[-1]

    yield make
    for site in made:
        site.process.kill()
        site.process.wait()


def test_a_page_of_the_site_gets_to_the_conversation_under_its_request_id(shared: Site) -> None:
    conversation = str(uuid4())
    headers = {"Origin": shared.origin, "Cookie": "sessionid=s", "X-Request-ID": "mine"}
    with WebSocket(shared.port, f"/ws/chat/{conversation.upper()}/", headers) as client:
        assert client.receive() == {"conversation": conversation, "cookie": "sessionid=s", "request_id": "mine"}
        client.send("hello")
        assert client.receive() == "hello"


def test_a_token_needs_no_origin_but_leaves_the_cookies_outside(shared: Site) -> None:
    with shared.chat(Origin="", Authorization="Bearer t", Cookie="sessionid=s") as client:
        assert client.receive()["cookie"] == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ""},
        {"Origin": "http://evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "evil.example", "Origin": "", "Authorization": "Bearer t"},
    ],
)
def test_any_other_page_is_refused_before_it_is_accepted(shared: Site, headers: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        shared.chat(**headers)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "path", ["/ws/chat/", "/ws/chat/1/", "/ws/chat/00000000-0000-4000-8000-000000000000", "/", "/ws/other/"]
)
def test_there_is_no_other_address_for_sockets(shared: Site, path: str) -> None:
    with pytest.raises(Refused) as refused:
        WebSocket(shared.port, path, {"Origin": shared.origin})
    assert refused.value.status == 403


def test_nothing_is_compressed_though_the_client_offers_to(shared: Site) -> None:
    with shared.chat(Sec_WebSocket_Extensions="permessage-deflate") as client:
        assert "permessage-deflate" not in client.head


def test_a_client_that_does_not_read_makes_the_application_wait_and_then_gets_all(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    until(lambda: site.state())
    before = site.memory()
    with WebSocket(site.port, "/flood", receive_buffer=8192) as client:
        until(lambda: site.state()["paused"])
        waiting = site.state()["sent"] * LENGTH
        assert sockets.SEND_BUFFER < waiting < 8 * sockets.SEND_BUFFER
        assert site.memory() - before < FRAMES * LENGTH / 4
        for number in range(FRAMES):
            assert client.receive() == f"{number:>{LENGTH - 2}}"
    assert site.state()["ended"]


def read_all(client: WebSocket) -> None:
    for _ in range(FRAMES):
        client.receive()


def test_a_client_that_does_not_read_can_be_cut_off_at_once(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with WebSocket(site.port, "/flood?cut", receive_buffer=8192) as client:
        until(lambda: site.state()["ended"])
        with pytest.raises(Closed) as closed:
            read_all(client)
    assert closed.value.code is None


def test_frames_that_the_application_does_not_take_are_not_read_from_the_client(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with WebSocket(site.port, "/deaf") as client:

        def send_all() -> None:
            for _ in range(FRAMES):
                client.send("x" * LENGTH)
            client.send("end")

        thread = threading.Thread(target=send_all)
        thread.start()
        # Either it does not read us, or it has read everything.
        until(lambda: not site.state()["reads"] or not thread.is_alive())
        # What one read of the network brings may be more than the bound.
        assert 0 < site.state()["waiting"] < 200
        assert thread.is_alive()
        site.state("/go")
        assert client.receive() == FRAMES
        thread.join(DEADLINE_S)


@pytest.mark.parametrize(
    "frame", [(TEXT, True), (PING, True), (CONTINUATION, False)], ids=["messages", "pings", "pieces of a message"]
)
def test_a_client_that_sends_nothing_in_ever_so_many_frames_is_cut_off(
    make_site: Callable[..., Site], frame: tuple[int, bool]
) -> None:
    opcode, is_last = frame
    site = make_site()
    with WebSocket(site.port, "/deaf") as client:
        if opcode == CONTINUATION:
            client.send_frame(TEXT, last=False)
        # One read of the network: ten thousand frames, each as short as it can be.
        burst = bytes([opcode | (0x80 if is_last else 0), 0x80, 0, 0, 0, 0]) * 10_000
        with pytest.raises(ConnectionError):
            client.socket.sendall(burst * 100)
        assert site.state()["waiting"] <= sockets.MAX_WAITING + 1  # that it is gone


def test_a_message_may_come_in_pieces_between_pings(shared: Site) -> None:
    with shared.chat() as client:
        client.receive()
        client.send_frame(TEXT, b'"', last=False)
        for _ in range(50):
            client.send_frame(CONTINUATION, b"piece ", last=False)
            client.send_frame(PING, b"hey")
        client.send_frame(CONTINUATION, b'"')
        assert client.receive() == "piece " * 50


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_message_that_is_too_long_ends_the_connection_with_1009(shared: Site, pieces: int) -> None:
    with shared.chat() as client:
        client.receive()
        piece = b"x" * (sockets.MAX_BYTES // pieces + 1)
        client.send_frame(TEXT, piece, last=pieces == 1)
        for number in range(1, pieces):
            client.send_frame(CONTINUATION, piece, last=number == pieces - 1)
        with pytest.raises(Closed) as closed:
            client.receive()
    assert closed.value.code == 1009


def test_a_message_of_the_greatest_length_is_taken(shared: Site) -> None:
    with shared.chat() as client:
        client.receive()
        longest = "x" * (sockets.MAX_BYTES - 2)
        client.send(longest)
        assert client.receive() == longest


def test_text_that_is_none_ends_the_connection_with_1007(shared: Site) -> None:
    with shared.chat() as client:
        client.receive()
        client.send_frame(TEXT, b"\xff")
        with pytest.raises(Closed) as closed:
            client.receive()
    assert closed.value.code == 1007


def test_a_dead_peer_is_cut_off_and_a_quiet_one_is_not(make_site: Callable[..., Site]) -> None:
    site = make_site(PING_S="1", PONG_S="2")
    with site.chat() as quiet, site.chat() as dead:
        dead.polite = False
        assert (dead.receive()["cookie"], quiet.receive()["cookie"]) == ("", "")
        thread = threading.Thread(target=lambda: quiet.receive())
        thread.start()
        with pytest.raises(Closed) as closed:
            dead.receive()
        assert closed.value.code is None
        quiet.send("still here")
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_a_dead_peer_is_noticed_within_half_a_minute() -> None:
    # Daphne looks every two seconds.
    assert sockets.PING_S + 2 + sockets.PONG_S <= 30


def test_bytes_and_pings_come_back_too(shared: Site) -> None:
    with shared.chat() as client:
        client.receive()
        client.send_frame(PING, b"hey")
        assert client.receive_frame() == (PONG, b"hey")
        client.send_frame(BINARY, b"{}")
        assert client.receive_frame() == (BINARY, b"{}")


def test_a_process_that_stops_lets_a_socket_hear_the_last_words_and_the_code(make_site: Callable[..., Site]) -> None:
    site = make_site()
    with WebSocket(site.port, "/leave") as client:
        assert client.receive() == "here"
        site.process.send_signal(signal.SIGTERM)
        assert set(client.receive()) == {"x"}
        with pytest.raises(Closed) as closed:
            client.receive()
    assert closed.value.code == 4000
    assert site.process.wait(DEADLINE_S) == 0
