"""One embedded server: alive as long as its process holds the lock that it inherited."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.layout import Layout
from astra_site.embedded.lock import Lock

# PostgreSQL may have a lot to recover after a kill. Meanwhile it has a socket, but turns everyone away.
START_SECONDS = 300.0
# How long to look for a socket that someone has cleaned away.
SOCKET_SECONDS = 5.0
STOP_SECONDS = 30.0
# Someone may just be asking whether the server lives.
PROBE_SECONDS = 2.0
LOG_BYTES = 4_000_000
# Writes its own process id before it becomes the server, so that no moment exists in which a server has none.
LAUNCH = 'echo $$ > "$0" && exec "$@"'


class Server(ABC):
    """What PostgreSQL and Valkey have in common. Call all methods but ``is_alive`` with the start lock held."""

    name: str
    label: str

    def __init__(self, layout: Layout, *, durable: bool) -> None:
        self.layout = layout
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self, lock: Lock) -> None:
        """Make the data folder if it is missing and remove what a killed server left behind.

        A process that does part of it inherits ``lock``, so that nobody starts a server beside it.
        """

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes work now."""

    @abstractmethod
    def ask_to_stop(self, pid: int) -> None:
        """Ask the server to shut down, keeping its data."""

    @property
    def folder(self) -> Path:
        """The data folder of this server, its working folder too."""
        return self.layout.data / self.name

    @property
    @abstractmethod
    def socket(self) -> Path:
        """Where the server listens."""

    @property
    def log(self) -> Path:
        """What the server writes to its standard output and error."""
        return self.layout.logs / f"{self.name}.log"

    def is_alive(self) -> bool:
        """Whether a process of the server, or one that it forked, still holds the lock."""
        self._reap()
        lock = Lock(self.layout.lock(self.name))
        try:
            # Shared, so that two who ask at once do not take each other for the server.
            return not lock.try_shared()
        finally:
            lock.close()

    def ensure(self) -> bool:
        """Make sure that the server runs and answers; tell whether it was started here."""
        if self.is_alive():
            if self._is_running() and self._wait_until_answers(
                START_SECONDS if self.socket.exists() else SOCKET_SECONDS
            ):
                return False
            # It runs but cannot be reached, or only children of a killed server are left: start afresh.
            self.stop()
        self._start()
        return True

    def stop(self) -> None:
        """Stop the server and wait until no process of it is left."""
        pid = self.read_pid()
        if self.is_alive() and pid:
            self.ask_to_stop(pid)
        if not self._wait_until_dead(STOP_SECONDS) and pid and self._is_running():
            os.kill(pid, signal.SIGKILL)
        if not self._wait_until_dead(STOP_SECONDS):
            raise EmbeddedError(f"{self.label} of {str(self.layout.data)!r} does not stop; its process id is {pid}.")
        self._collect()
        self.layout.pid(self.name).unlink(missing_ok=True)

    def let_go(self) -> None:
        """Leave the running server to the others who use it."""
        if self.process is not None and self.process.poll() is None:
            self.process.returncode = 0  # Else Popen warns that its child is still running, which is the point.

    def read_pid(self) -> int | None:
        """Return the process id of the running server."""
        try:
            return int(self.layout.pid(self.name).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _start(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        lock = Lock(self.layout.lock(self.name))
        try:
            if not lock.wait_exclusive(PROBE_SECONDS):
                raise EmbeddedError(f"{self.label} of {str(self.layout.data)!r} was started by another process.")
            self._collect()
            self.prepare(lock)
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    ["/bin/sh", "-c", LAUNCH, str(self.layout.pid(self.name)), *self.command()],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.descriptor],
                    start_new_session=True,
                    env=self.environment(),
                )
        finally:
            lock.close()
        if not self._wait_until_answers(START_SECONDS):
            raise EmbeddedError(f"{self.label} does not start; the end of {str(self.log)!r} says: {self.last_words()}")

    def environment(self) -> dict[str, str]:
        """Return the environment of the server: nothing of ours but the path and a neutral locale."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}

    def last_words(self) -> str:
        """Return the last line of the server's log."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except FileNotFoundError:
            return "(nothing)"
        return next((line.strip() for line in reversed(lines) if line.strip()), "(nothing)")

    def _collect(self) -> None:
        """Wait for a child of ours that has let go of the lock: it is about to end."""
        if self.process is not None:
            self.process.wait(STOP_SECONDS)
            self.process = None

    def _reap(self) -> None:
        """Collect the server that we started, if it is dead. Another process may have started a new one since."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None

    def _is_running(self) -> bool:
        """Whether the process whose id we keep is the server itself, not a stranger who got its number."""
        self._reap()
        pid = self.read_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            found = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)
            arguments = found.stdout
        return self.name.encode() in arguments

    def _wait_until_answers(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline or not self.is_alive():
                return False
            time.sleep(0.02)
        return True

    def _wait_until_dead(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
