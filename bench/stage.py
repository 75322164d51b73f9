"""Where all of it happens: servers of its own, real and durable, and the processes that use them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import django
import redis

from astra_site import embedded
from astra_site.parent import Leash
from bench.peers import environment

ROOT = Path(__file__).resolve().parent.parent
LEAKS = ("ASTRA_", "OPENAI_", "ANTHROPIC_", "DATABASE_URL", "REDIS_URL", "DJANGO_")
STOP_S = 30.0
#: Of 16 MB: what PostgreSQL keeps for use again, by its `min_wal_size`.
USED_WAL_FILES = 6


class TookTooLong(Exception):
    """What a benchmark waited for did not come."""


def wait_until(seen: Callable[[], bool], what: str, *, seconds: float = 60.0, every_s: float = 0.02) -> None:
    """Poll until ``seen``.

    Raises:
        TookTooLong: it was not seen in time.
    """
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise TookTooLong(f"{what}: not within {seconds:.0f} s")
        time.sleep(every_s)


class Stage:
    """A durable PostgreSQL and a Valkey in a folder of their own, a migrated database, and child processes.

    The folder lies in the data directory, not in the system's temporary one, which may be memory: then nothing that
    is synced to disk would cost what it costs.
    """

    def __init__(self, rounds: int | None = None, *, explain: bool = False) -> None:
        self._rounds = rounds
        #: Whether the plans of slow statements are asked for, where a benchmark can show them.
        self.explain = explain
        base = Path(os.environ.get("ASTRA_DATA_DIR") or ROOT / "var").resolve() / "bench"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._peers = base / "peers"
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(LEAKS)} | {
            "ASTRA_DATA_DIR": str(self.folder),
            "ASTRA_SECRET_KEY": "only-for-benchmarks",
            "DATABASE_URL": embedded.database_url(self.folder),
            "REDIS_URL": embedded.redis_url(self.folder),
            "ASTRA_CONFIG": str(ROOT / "bench" / "astra.yml"),
            "DJANGO_SETTINGS_MODULE": "bench.settings",
            "PYTHONUNBUFFERED": "1",
        }
        #: Celery would look for Django, if its settings were named.
        self.env_of_peers = {name: value for name, value in self.env.items() if not name.startswith("DJANGO_")}
        self._exit = ExitStack()

    def rounds(self, usual: int, *, quick: bool) -> int:
        """Return how many rounds to run: as many as were asked for, else one of a quick run, else the usual number."""
        return self._rounds or (1 if quick else usual)

    def __enter__(self) -> Self:
        try:
            self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.peers_python = environment.ensure(self._peers)
            self._exit.enter_context(embedded.servers(self.folder))
            self._leash = Leash()
            self._exit.callback(self._leash.close)
            self.valkey = redis.Redis.from_url(self.env["REDIS_URL"], socket_timeout=60)
            self._exit.callback(self.valkey.close)
            self._set_up_django()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _set_up_django(self) -> None:
        for name in [name for name in os.environ if name.startswith(LEAKS)]:
            del os.environ[name]
        os.environ.update(self.env)
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        self._age_the_wal()
        self._exit.callback(connection.close_pool)  # type: ignore[attr-defined]
        self._exit.callback(connection.close)

    def _age_the_wal(self) -> None:
        """Give PostgreSQL the spare WAL files of one that has been at work: making one holds up every commit."""
        from django.db import connection

        with connection.cursor() as cursor:
            for _ in range(USED_WAL_FILES):
                cursor.execute("SELECT pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()")
            cursor.execute("CHECKPOINT")

    def column(self, sql: str) -> list[float]:
        """Return the first column of a query."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(sql)
            return [row[0] for row in cursor.fetchall()]

    def until_workers(self, count: int) -> None:
        """Wait until so many workers hold a lease: each process is one, each forked suspect another."""
        alive = "SELECT 1 FROM jobs_worker WHERE ended_at IS NULL AND lease_until > now()"
        wait_until(lambda: len(self.column(alive)) >= count, f"{count} workers")

    def next_start(self, *, seconds: int = 30) -> float:
        """Wait for the next task to say when it began."""
        said: Any = self.valkey.blpop(["bench:starts"], seconds)
        if said is None:
            raise TookTooLong(f"no task began within {seconds} s")
        return float(said[1])

    def clear(self) -> None:
        """Empty the jobs' tables and Valkey: each round begins like the first."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE jobs_job, jobs_jobevent, jobs_worker, jobs_idempotencykey CASCADE")
            cursor.execute("CHECKPOINT")
        self.valkey.flushall()

    @contextmanager
    def process(self, command: list[str], **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside us, and stop it at the end."""
        own = self.env_of_peers if command[0] == str(self.peers_python) else self.env
        with (self.folder / "processes.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**own, **self._leash.environment(), **env},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=[self._leash.descriptor],
            )
        try:
            yield child
        finally:
            _stop(child)

    @contextmanager
    def model_server(self) -> Iterator[str]:
        """Run a model that answers after a second; its URL."""
        command = [sys.executable, "-m", "bench.model_server"]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None and child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.stdin.close()
            child.stdout.close()
            child.wait(STOP_S)

    def postgres_version(self) -> str:
        """Return the server's version."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            return str(cursor.fetchone()[0])

    def peers_versions(self, *names: str) -> dict[str, str]:
        """Return the versions of packages in the peers' environment."""
        code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        done = subprocess.run(
            [str(self.peers_python), "-c", code, *names], stdout=subprocess.PIPE, check=True, text=True
        )
        return dict(zip(names, done.stdout.split(), strict=True))

    def manage(self, *words: str) -> list[str]:
        """Return the command for one of Astra's own."""
        return [sys.executable, str(ROOT / "manage.py"), *words]

    def peer(self, *words: str) -> list[str]:
        """Return the command for a module of the peers' environment."""
        return [str(self.peers_python), "-m", *words]


def _stop(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
