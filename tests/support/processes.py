"""Real worker and scheduler processes for tests: started, watched, stopped, and always gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from pytest_django import DjangoDbBlocker

from agents import registry
from astra_site import embedded, sessions
from astra_site.parent import Leash
from jobs import wakeups
from jobs.models import Worker
from tests.support.connections import let_go

ROOT = Path(__file__).resolve().parent.parent.parent
POLL_S = 0.02
EMPTY: Mapping[str, str] = MappingProxyType({})
T = TypeVar("T")


def eventually(what: Callable[[], T], *, within_s: float) -> T:
    """Return the first true value of ``what()``; fail when there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s; in the end it was {value!r}")
        time.sleep(POLL_S)
    return value


class Process:
    """One process that a test started, in a session of its own with all that it starts in turn."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], leash: Leash, keeps: Sequence[int] = ()
    ) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=os.environ | {"ASTRA_LOG_LEVEL": "WARNING"} | leash.environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=[leash.descriptor, *keeps],
            start_new_session=True,
        )
        self.pid = self.popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def kill(self) -> float:
        """Kill it, and not what it started. Returns when, on the monotonic clock."""
        self.popen.kill()
        self.popen.wait()
        return time.monotonic()

    def stop(self) -> None:
        """Let it stand still."""
        self.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end in order."""
        self.popen.terminate()

    def ends_within(self, seconds: float) -> int:
        """Wait until it has ended; return its exit status."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process {self.pid} did not end within {seconds} s")

    def others(self) -> list[int]:
        """Return the processes of its session but for itself: what it started and what those started."""
        return [pid for pid in sessions.members(self.pid) if pid != self.pid]

    def end(self) -> None:
        """Kill it and everything that it started."""
        with suppress(ProcessLookupError):
            self.popen.kill()
        for pid in self.others():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()


class Processes:
    """The processes of a test or a module. They end when it does, and also when the tests are killed."""

    def __init__(self) -> None:
        self._started: list[Process] = []
        self._leash = Leash()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._started:
            process.end()
        self._leash.close()

    def start(self, *arguments: str, environment: Mapping[str, str] = EMPTY, keeps: Sequence[int] = ()) -> Process:
        """Start a command of `manage.py`, which inherits the descriptors that it ``keeps``."""
        process = Process(arguments, environment, self._leash, keeps)
        self._started.append(process)
        return process

    def kill_pid(self, pid: int) -> None:
        """Kill a process that one of ours started."""
        assert any(pid in process.others() for process in self._started)
        os.kill(pid, signal.SIGKILL)

    def scheduler(self) -> Process:
        """Start a scheduler."""
        return self.start("scheduler")

    def worker(self, *lanes: str, grace: float = 5, environment: Mapping[str, str] = EMPTY) -> Process:
        """Start a worker on lanes like ``queue:4``; it may not have registered yet."""
        words = [word for lane in lanes for word in ("--lane", lane)]
        return self.start("worker", *words, "--grace", str(grace), environment=environment)

    def ready_worker(self, *lanes: str, grace: float = 5, environment: Mapping[str, str] = EMPTY) -> Process:
        """Start a worker and wait until it has registered."""
        process = self.worker(*lanes, grace=grace, environment=environment)
        wait_until_ready(process)
        return process


def wait_until_ready(*processes: Process) -> None:
    """Wait until all these workers have registered."""

    def are_ready() -> bool:
        for process in processes:
            assert process.is_alive, f"worker {process.pid} ended with {process.popen.returncode}"
        pids = {process.pid for process in processes}
        return pids <= set(Worker.objects.alive().values_list("pid", flat=True))

    eventually(are_ready, within_s=30)


def database_for_a_module() -> tuple[Any, Any, Any]:
    """Return fixtures that let the tests of a module share the database, as they share processes; it is left empty.

    A module calls them ``_module_database``, ``transactional_db`` and ``_database``.
    """

    @pytest.fixture(scope="module", autouse=True)
    def _module_database(
        django_db_setup: None, django_db_blocker: DjangoDbBlocker, servers: embedded.Servers
    ) -> Iterator[None]:
        with django_db_blocker.unblock():
            try:
                yield
            finally:
                call_command("flush", verbosity=0, interactive=False)
                connection.close()
        registry.forget()

    @pytest.fixture
    def transactional_db() -> None:
        """Empty nothing after a test."""

    @pytest.fixture(autouse=True)
    def _database(transactional_db: None) -> None:
        """Tell pytest-django that a database is needed."""

    return _module_database, transactional_db, _database


@contextmanager
def moved_to(data_dir: Path) -> Iterator[embedded.Servers]:
    """Give this process, and those it starts, a PostgreSQL and a Valkey of their own that a test may kill."""
    with embedded.servers(data_dir, durable=False) as servers:
        urls = {"DATABASE_URL": embedded.database_url(data_dir), "REDIS_URL": embedded.redis_url(data_dir)}
        patch = pytest.MonkeyPatch()
        for name, url in urls.items():
            patch.setenv(name, url)
        patch.setattr(settings, "REDIS_URL", urls["REDIS_URL"])
        patch.setitem(connection.settings_dict, "NAME", "astra")
        patch.setitem(connection.settings_dict, "HOST", str(servers.layout.run))
        reconnect()
        try:
            call_command("migrate", verbosity=0, interactive=False)
            yield servers
        finally:
            reconnect()
            patch.undo()
            reconnect()


def reconnect() -> None:
    """Let go of connections that are broken, or lead elsewhere than they should."""
    let_go()
    wakeups.client.cache_clear()
    wakeups.queue.cache_clear()
