"""The two chats that are measured: Astra's web process, and a bare consumer on daphne. Both have the same model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from bench import memory
from bench.chat_load import Plan, Seen
from bench.stage import ROOT, Stage, wait_until
from bench.tokens import Wanted

ENDPOINT = "bench-chat.v1"
#: The first replies of a process: what is imported and cached at the first use is no part of any measurement.
WARM_UP = Wanted(0.05, 5, 0.01)
_TICKS = os.sysconf("SC_CLK_TCK")

Addresses = list[tuple[int, str, dict[str, str]]]


class Side(ABC):
    """One kind of server."""

    name: str
    text: str
    end: str
    fault: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """Return what runs it."""

    @abstractmethod
    def addresses(self, port: int, count: int) -> Addresses:
        """Return an address for each of so many people."""

    def environment(self) -> dict[str, str]:
        """Return what its process needs to know."""
        return {}

    @contextmanager
    def server(self) -> Iterator[Server]:
        """Run one process of it, warm."""
        port = _free_port()
        with self.stage.process(self.command(port), **self.environment()) as child:
            wait_until(lambda: _listens(port), f"{self.name} to listen")
            server = Server(self, child, port)
            server.load(2, WARM_UP, window_s=0.2)
            time.sleep(5 * WARM_UP.lasts_s)  # replies that the load generator left behind come to their end
            yield server


class Server:
    """A running one."""

    def __init__(self, side: Side, child: subprocess.Popen[bytes], port: int) -> None:
        self.side, self.pid, self.port = side, child.pid, port

    def load(self, streams: int, wanted: Wanted, *, window_s: float, people: int = 0, idle: int = 0) -> Measured:
        """Talk to it, `streams` replies in flight, and measure.

        ``people`` take turns, one for each stream if there are not more; ``idle`` others only hold a socket.
        """
        plan = Plan(
            addresses=self.side.addresses(self.port, max(people, streams) + idle),
            streams=streams,
            idle=idle,
            wanted=str(wanted),
            window_s=window_s,
            text=self.side.text,
            end=self.side.end,
            fault=self.side.fault,
        )
        found = Measured(memory_before=memory.of_tree(self.pid))
        with Generator(plan) as generator:
            found.sockets = generator.hear()["connected"]
            found.memory_idle = memory.of_tree(self.pid)
            generator.go_on()
            generator.hear()
            worked = cpu_seconds(self.pid)
            generator.go_on()
            found.seen = Seen(**generator.hear())
            found.cpu_s = cpu_seconds(self.pid) - worked
            found.memory_at_work = memory.of_tree(self.pid)
            generator.go_on()
        if found.seen.busy > 0.7:
            print(f"The load generator itself was busy for {found.seen.busy:.0%} of the time.", file=sys.stderr)
        return found


class Measured:
    """What one load came to: bytes, seconds of the server's processor, and what the people saw."""

    def __init__(self, memory_before: int) -> None:
        self.memory_before = memory_before
        self.memory_idle = self.memory_at_work = self.sockets = 0
        self.cpu_s = 0.0
        self.seen = Seen()


class Generator:
    """The process that makes the load."""

    def __init__(self, plan: Plan) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.chat_load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(plan.dump())

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()
        self._child.stdout.close()

    def hear(self) -> dict[str, Any]:
        """Wait for its next line."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the load generator failed")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def go_on(self) -> None:
        """Let it go on."""
        self._write("")

    def _write(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()


class AstraChat(Side):
    """One `manage.py web` process; each person has an account, a session and a conversation."""

    name = "Astra"
    text, end, fault = '"run.delta"', '"run.finished"', '"problem"'

    def __init__(self, stage: Stage, name: str = "Astra", **env: str) -> None:
        super().__init__(stage)
        self.name = name
        self._env = env
        self._people = People()

    def command(self, port: int) -> list[str]:
        return self.stage.manage("web", "--port", str(port))

    def environment(self) -> dict[str, str]:
        return {"ASTRA_MODEL": "demo", "ASTRA_LOG_LEVEL": "WARNING", **self._env}

    def addresses(self, port: int, count: int) -> Addresses:
        return [
            (
                port,
                f"/ws/chat/{conversation}/",
                {"Cookie": f"sessionid={session}", "Origin": f"http://127.0.0.1:{port}"},
            )
            for session, conversation in self._people.first(count)
        ]


class BareChat(Side):
    """`bench.bare_chat` on daphne."""

    name = "a bare consumer"
    text, end, fault = '"token"', '"done"', '"error"'

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "daphne", "--port", str(port), "-v", "0", "bench.bare_chat:application"]

    def addresses(self, port: int, count: int) -> Addresses:
        return [(port, "/", {}) for _ in range(count)]


class People:
    """Those who talk to Astra, signed in. Made once; limits for one person bite nobody."""

    _known: list[tuple[str, UUID]] = []

    def first(self, count: int) -> list[tuple[str, UUID]]:
        """Return the session and the conversation of each."""
        if count > len(self._known):
            self._make(count - len(self._known))
        return self._known[:count]

    def _make(self, count: int) -> None:
        from django.conf import settings
        from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
        from django.contrib.sessions.backends.db import SessionStore

        from agents import registry
        from agents.models import Conversation, Endpoint

        if not self._known:
            registry.load(settings.ASTRA_CONFIG)
        endpoint = Endpoint.objects.get(name=ENDPOINT)
        model = get_user_model()
        begin = len(self._known)
        users = model.objects.bulk_create(
            [model(username=f"person-{begin + number}", password="!") for number in range(count)]
        )
        talks = Conversation.objects.bulk_create([Conversation(user=user, endpoint=endpoint) for user in users])
        for user, talk in zip(users, talks, strict=True):
            session = SessionStore()
            session[SESSION_KEY] = str(user.pk)
            session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
            session[HASH_SESSION_KEY] = user.get_session_auth_hash()
            session.create()
            session.save()
            self._known.append((str(session.session_key), talk.pk))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
