"""All of Astra in one command: the order in which it starts, runs and stops."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, connection

from astra_site import embedded, listening, reach
from astra_site.embedded.layout import Layout
from astra_site.embedded.lock import Lock
from astra_site.embedded.postgres import Postgres
from astra_site.supervisor import Backoff, Child, Signals, Supervisor
from jobs import lanes, lease

logger = logging.getLogger(__name__)

WATCH_S = 1.0
READY_POLL_S = 0.05
ANSWER_S = 5.0
# How long to wait for it to be ready before saying what it waits for, and again.
PATIENCE_S = 20.0
# What a child may take beyond its own grace time to hand back its work and close its connections. The web server's
# `CLOSING_S` is the longest of them; to import it takes Twisted.
CLOSING_S = 12.0
RELEASE_TRIES = 5


class Stopped(KeyboardInterrupt):
    """Someone asked to stop while Astra was still starting."""


def say(sentence: str) -> None:
    """Tell the person at the terminal."""
    # Nobody may be reading any more; that is no reason to stop.
    with suppress(BrokenPipeError):
        sys.stdout.write(sentence + "\n")
        sys.stdout.flush()


class Up:
    """One run of ``manage.py up``."""

    def __init__(self, *, host: str, port: int, web: int, workers: str, demo: bool | None) -> None:
        self.host = host
        self.port = port
        self.web = web
        self.lanes = _lanes(workers)
        self.demo = settings.EMBEDDED_DATABASE if demo is None else demo
        self.has_demo_users = False
        self.passwords: dict[str, str] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        """Start, run until someone asks to stop, stop."""
        for number in Signals.STOPS:
            signal.signal(number, _stop_starting)
        # There is nothing to renew yet, and that is no reason to die.
        signal.signal(Signals.RENEW, signal.SIG_IGN)
        try:
            with (
                self._alone(),
                listening.listen(self.host, self.port) as listener,
                embedded.servers(
                    settings.DATA_DIR, postgres=settings.EMBEDDED_DATABASE, valkey=settings.EMBEDDED_REDIS
                ) as servers,
            ):
                try:
                    self._prepare(servers)
                    self._supervise(listener, servers)
                finally:
                    _ignore_signals()
                    connection.close()
        except Stopped:
            say("Astra was stopped while it was starting.")

    @property
    def url(self) -> str:
        """The address people open on this machine."""
        return f"http://[{self.reach}]:{self.port}" if ":" in self.reach else f"http://{self.reach}:{self.port}"

    @property
    def reach(self) -> str:
        """The host to reach the site at from this machine."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only ``up`` on the data directory; the kernel lets go of the lock if this process is killed."""
        folder = Path(settings.DATA_DIR)
        Layout(folder).make_data()
        lock = Lock(folder / "up.lock")
        try:
            if not lock.try_exclusive():
                where = (folder / "up.lock").read_text().strip() or "starting"
                raise CommandError(f"Astra already runs on the data directory {str(folder)!r} ({where}).")
            (folder / "up.lock").write_text(self.url + "\n")
            yield
        finally:
            lock.close()

    def _prepare(self, servers: embedded.Servers) -> None:
        """Bring the database up to date, load the agents, make the demo users and their data."""
        from agents import registry
        from agents.config import ConfigError
        from astra_site import demo, schema

        if fault := reach.database_fault() or reach.redis_fault():
            raise CommandError(fault)
        if schema.migrate():
            say("The database is up to date.")
        if Postgres.name in servers.started:
            # Nobody held the servers, so whoever ran jobs on them is gone.
            lease.release_all()
        try:
            registry.load(settings.ASTRA_CONFIG)
        except ConfigError as error:
            raise CommandError(str(error)) from None
        self.lanes = self.lanes or _lanes_configured()
        if self.demo and demo.is_due():
            self.passwords = demo.create()
            demo.stock_shop()
            demo.submit_tasks()
        self.has_demo_users = demo.exists()

    def _supervise(self, listener: socket.socket, servers: embedded.Servers) -> None:
        """Run the children until someone asks to stop; stop them, and the sockets they would serve, first."""
        with Signals() as signals:
            longest_s = settings.GRACE_SECONDS + CLOSING_S
            supervisor = Supervisor(self._children(listener), say=say, on_death=_release_soon, renew_grace_s=longest_s)
            renewals = 0
            try:
                supervisor.step()
                threading.Thread(target=self._announce, name="announce", daemon=True).start()
                watch = Watch(servers)
                while not signals.asked:
                    if signals.renewals > renewals:
                        renewals = signals.renewals
                        supervisor.renew()
                    due = supervisor.step()
                    watch.look()
                    signals.wait(min(due, WATCH_S))
            finally:
                self.stopping.set()
                say("Astra stops.")
                listener.close()
                asked = signals.asked
                supervisor.stop(longest_s, is_hurried=lambda: signals.asked > asked)
                self._show_passwords()

    def _children(self, listener: socket.socket) -> list[Child]:
        """Return the processes to run, in the order in which they are asked to stop."""
        os.environ["ASTRA_PORT"] = str(self.port)
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        lanes = [word for lane, slots in self.lanes.items() for word in ("--lane", f"{lane}:{slots}")]
        number = listener.fileno()
        # They share the socket: the kernel hands each connection to one that is free, and none is lost with a process.
        names = ["web server"] if self.web == 1 else [f"web server {place + 1}" for place in range(self.web)]
        return [
            *(Child(name, [*manage, "web", "--fd", str(number)], keeps=[number], reports=True) for name in names),
            Child("worker", [*manage, "worker", "--grace", str(settings.GRACE_SECONDS), *lanes]),
            Child("scheduler", [*manage, "scheduler"]),
        ]

    def _announce(self) -> None:
        """Say that Astra is ready, once the site answers and every lane has its worker."""
        complain_at = time.monotonic() + PATIENCE_S
        while missing := self._what_is_missing():
            if self.stopping.wait(READY_POLL_S):
                return
            if time.monotonic() > complain_at:
                say(f"Astra is not ready yet: {missing}")
                complain_at += PATIENCE_S
        say(f"Astra is ready at {self.url}")
        if self.reach != self.host and settings.ALLOWED_HOSTS == settings.OWN_HOSTS:
            say("It answers only under names of this machine; add others with ASTRA_ALLOWED_HOSTS.")
        if self.has_demo_users and not self.passwords:
            change = shlex.join([sys.executable, "manage.py", "changepassword", "operator"])
            say(f"Forgot a demo user's password? Set a new one: {change}")
        self._show_passwords()

    def _show_passwords(self) -> None:
        """Show the new demo users' passwords, unless that was done."""
        passwords, self.passwords = self.passwords, {}
        if passwords:
            say("Sign in as one of the demo users. These passwords are shown only now:")
        for name, password in passwords.items():
            say(f"  {name:<10} {password}")

    def _what_is_missing(self) -> str:
        """Ask the site itself, as a load balancer would; the lanes that this run leaves out are not waited for."""
        client = http.client.HTTPConnection(self.reach, self.port, timeout=ANSWER_S)
        try:
            client.request("GET", "/readyz", headers={"Host": _allowed_host()})
            answer: dict[str, Any] = json.loads(client.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return "The web server does not answer."
        finally:
            client.close()
        idle = sorted(set(answer["idle_lanes"]) & {lanes.CHAT, *self.lanes})
        faults = [fault for check, fault in answer["checks"].items() if check != "lanes" and fault != "ok"]
        return " ".join([*faults, *([f"No worker serves {', '.join(idle)}."] if idle else [])])


class Watch:
    """Looks after the embedded servers, which are nobody's children for long."""

    def __init__(self, servers: embedded.Servers) -> None:
        self.servers = servers
        self.pids = servers.pids()
        self.backoff = Backoff()
        self.revived_at = 0.0
        self.look_at = 0.0

    def look(self) -> None:
        """Start again what died, at most once a second and ever less often if it keeps dying."""
        now = time.monotonic()
        if now < self.look_at:
            return
        self.look_at = now + WATCH_S
        if dead := self.servers.dead():
            for name in dead:
                say(f"{name} died; it is started again.")
            try:
                self.servers.revive()
            except embedded.EmbeddedError as error:
                say(str(error))
            now = time.monotonic()
            self.look_at = now + self.backoff.after(now - self.revived_at)
            self.revived_at = now
        else:
            # A command that came in between may have found it dead before us.
            for label, pid in self.servers.pids().items():
                if pid != self.pids[label]:
                    say(f"{label} died; it was started again.")
        self.pids = self.servers.pids()


def _release_soon(pid: int) -> None:
    """Take the jobs of a dead child from it at once, beside the loop, for the database may be slow or away."""
    threading.Thread(target=_release, args=(pid,), name=f"release-{pid}", daemon=True).start()


def _release(pid: int) -> None:
    try:
        for _ in range(RELEASE_TRIES):
            with suppress(DatabaseError):
                lease.release_dead(pid=pid)
                return
            connection.close()
            time.sleep(1)
        logger.warning(
            "could not release a dead process's jobs, its lease does", extra={"action": "release", "pid": pid}
        )
    finally:
        connection.close()


def _lanes(workers: str) -> dict[str, int]:
    """Read ``--workers``."""
    try:
        return lanes.parse([text.strip() for text in workers.split(",") if text.strip()])
    except lanes.UnknownLane as error:
        raise CommandError(str(error)) from None


def _allowed_host() -> str:
    """Return a host name that the site answers to."""
    first = settings.ALLOWED_HOSTS[0].lstrip(".")
    return "localhost" if first == "*" else first


def _lanes_configured() -> dict[str, int]:
    """Return the slots of every lane: those of `astra.yml`, else the usual ones."""
    from agents import registry

    configured = registry.current().lanes
    return {lane: configured.get(lane, {}).get("slots") or usual for lane, usual in lanes.DEFAULT_SLOTS.items()}


def _stop_starting(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _ignore_signals() -> None:
    """Let nothing interrupt the stop of the servers: it is short, and it keeps the data."""
    for number in Signals.STOPS:
        signal.signal(number, signal.SIG_IGN)
