"""A web process that is told to stop takes nothing new, ends its streams well and lets its requests finish."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from astra_site import listening
from astra_site.up import CLOSING_S
from tests.support.processes import eventually

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
#: More than the buffers of both sockets hold.
LARGE = 16 << 20
until = partial(eventually, within_s=DEADLINE_S)


class Site:
    """A web process on a port of its own."""

    def __init__(self, file: Path, grace_s: int, **environment: str) -> None:
        self.file = file
        listener = listening.listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.roof.drained_site", str(listener.fileno()), str(file)],
            cwd=ROOT,
            env=os.environ | {"ASTRA_GRACE_S": str(grace_s)} | environment,
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        listener.close()

    def story(self) -> list[str]:
        """What its work has written."""
        file = self.file.with_name("story")
        return file.read_text().splitlines() if file.exists() else []

    def refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that the slow answer waits for."""
    return tmp_path / "go"


@pytest.fixture
def make_site(file: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(grace_s: int, **environment: str) -> Site:
        made.append(Site(file, grace_s, **environment))
        return made[-1]

    yield make
    for site in made:
        site.process.kill()
        site.process.wait()


def ask_slowly(site: Site, answers: list[str]) -> threading.Thread:
    """Ask for the slow answer beside the test, until the server has it in hand."""

    def ask() -> None:
        try:
            answers.append(httpx.get(f"{site.url}/slow", timeout=DEADLINE_S).text)
        except httpx.HTTPError as error:
            answers.append(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_what_is_in_flight_ends_well_and_nothing_new_begins(make_site: Callable[..., Site], file: Path) -> None:
    site = make_site(20)
    answers: list[str] = []
    thread = ask_slowly(site, answers)
    with httpx.stream("GET", f"{site.url}/stream", timeout=DEADLINE_S) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "begun"
        until((file.parent / "asked").exists)
        site.process.send_signal(signal.SIGTERM)
        # A cut stream would raise instead.
        assert list(lines) == []
    until(site.refuses)
    assert site.process.poll() is None
    file.touch()
    assert site.process.wait(DEADLINE_S) == 0
    thread.join(DEADLINE_S)
    assert answers == ["at last"]


def test_what_takes_longer_than_the_grace_time_is_cut(make_site: Callable[..., Site], file: Path) -> None:
    site = make_site(0)
    answers: list[str] = []
    thread = ask_slowly(site, answers)
    until((file.parent / "asked").exists)
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(DEADLINE_S) == 0
    thread.join(DEADLINE_S)
    assert answers == ["RemoteProtocolError"]


def test_a_connection_that_is_only_kept_open_does_not_hold_up_the_stop(
    make_site: Callable[..., Site], file: Path
) -> None:
    site = make_site(20)
    file.touch()
    with httpx.Client() as client:
        assert client.get(f"{site.url}/slow", timeout=DEADLINE_S).text == "at last"
        began = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_that_is_still_starting_holds_up_neither_pages_nor_the_stop(
    make_site: Callable[..., Site], file: Path, number: signal.Signals
) -> None:
    site = make_site(20, WORK="slow")
    file.touch()
    until(lambda: site.story() == ["begun"])
    assert httpx.get(f"{site.url}/slow", timeout=DEADLINE_S).text == "at last"
    site.process.send_signal(number)
    assert site.process.wait(10) == 0
    assert site.story()[-3:] == ["ended", "cancelled", "clients closed"]


def test_work_is_told_to_end_when_nothing_new_comes_in_and_before_the_clients_close(
    make_site: Callable[..., Site], file: Path
) -> None:
    site = make_site(20, WORK="slow")
    answers: list[str] = []
    thread = ask_slowly(site, answers)
    until((file.parent / "asked").exists)
    site.process.send_signal(signal.SIGTERM)
    until(lambda: len(site.story()) == 4)
    assert site.story() == ["begun", "told to end within 20", "closed", "drained"]
    assert site.process.poll() is None
    file.touch()
    assert site.process.wait(DEADLINE_S) == 0
    thread.join(DEADLINE_S)
    assert answers == ["at last"]
    assert site.story()[4:] == ["ended", "cancelled", "clients closed"]


def test_work_that_does_not_end_in_time_is_left(make_site: Callable[..., Site], file: Path) -> None:
    site = make_site(0, WORK="stubborn")
    until(lambda: site.story() == ["begun"])
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(CLOSING_S) == 0
    assert site.story()[-2:] == ["cancelled", "clients closed"]


def test_work_that_cannot_start_leaves_the_pages_alone(make_site: Callable[..., Site], file: Path) -> None:
    site = make_site(20, WORK="breaks")
    file.touch()
    assert httpx.get(f"{site.url}/slow", timeout=DEADLINE_S).text == "at last"
    assert site.story() == ["begun"]
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(DEADLINE_S) == 0
    assert site.story()[-2:] == ["ended", "clients closed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_large_answer_is_sent_whole_before_the_process_ends(
    make_site: Callable[..., Site], file: Path, number: signal.Signals
) -> None:
    site = make_site(20)
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(b"GET /large/%d HTTP/1.0\r\n\r\n" % LARGE)
        assert client.recv(1) == b"H"
        site.process.send_signal(number)
        until(site.refuses)
        received = 1
        while piece := client.recv(1 << 16):
            received += len(piece)
    assert received > LARGE
    assert site.process.wait(DEADLINE_S) == 0
