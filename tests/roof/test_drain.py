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
from tests.support.processes import eventually

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
until = partial(eventually, within_s=DEADLINE_S)


class Site:
    """A web process on a port of its own."""

    def __init__(self, file: Path, grace_s: int) -> None:
        listener = listening.listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.roof.drained_site", str(listener.fileno()), str(file)],
            cwd=ROOT,
            env=os.environ | {"ASTRA_GRACE_S": str(grace_s)},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        listener.close()

    def refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that the slow answer waits for."""
    return tmp_path / "go"


@pytest.fixture
def make_site(file: Path) -> Iterator[Callable[[int], Site]]:
    made: list[Site] = []

    def make(grace_s: int) -> Site:
        made.append(Site(file, grace_s))
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


def test_what_is_in_flight_ends_well_and_nothing_new_begins(make_site: Callable[[int], Site], file: Path) -> None:
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


def test_what_takes_longer_than_the_grace_time_is_cut(make_site: Callable[[int], Site], file: Path) -> None:
    site = make_site(0)
    answers: list[str] = []
    thread = ask_slowly(site, answers)
    until((file.parent / "asked").exists)
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(DEADLINE_S) == 0
    thread.join(DEADLINE_S)
    assert answers == ["RemoteProtocolError"]


def test_a_connection_that_is_only_kept_open_does_not_hold_up_the_stop(
    make_site: Callable[[int], Site], file: Path
) -> None:
    site = make_site(20)
    file.touch()
    with httpx.Client() as client:
        assert client.get(f"{site.url}/slow", timeout=DEADLINE_S).text == "at last"
        began = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < 10
