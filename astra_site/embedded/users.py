"""Who uses the embedded servers: the first starts them, the last stops them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.layout import Layout
from astra_site.embedded.lock import Lock
from astra_site.embedded.postgres import Postgres
from astra_site.embedded.server import Server
from astra_site.embedded.valkey import Valkey

# A first start on a slow disk takes a while, and others wait for it.
TURN_SECONDS = 330.0


class Servers:
    """One process's hold on the servers of a data directory."""

    def __init__(self, data_dir: Path, *, postgres: bool, valkey: bool, durable: bool) -> None:
        self.layout = Layout(data_dir)
        # All of them: one that a killed process left is stopped too by the last user.
        self.known: list[Server] = [Postgres(self.layout, durable=durable), Valkey(self.layout, durable=durable)]
        self.servers = [s for s, is_used in zip(self.known, (postgres, valkey), strict=True) if is_used]
        #: The names of the servers that did not run before ``enter``.
        self.started: list[str] = []
        self._hold: Lock | None = None

    def enter(self) -> None:
        """Join the users and see that every server runs."""
        if not self.servers:
            return
        self.layout.make_data()
        turn = self._take_turn()
        try:
            self.layout.make_run()
            self._hold = Lock(self.layout.lock("users"))
            if not self._hold.try_shared():
                raise EmbeddedError(f"The data directory {str(self.layout.data)!r} is locked by another program.")
            try:
                self.started = self._ensure()
            except BaseException:
                self._stop_if_last()
                raise
        finally:
            turn.close()

    def leave(self) -> None:
        """Leave the users; stop the servers if nobody else is left."""
        if self._hold is None:
            return
        turn = self._take_turn()
        try:
            self._stop_if_last()
        finally:
            turn.close()

    def dead(self) -> list[str]:
        """Return the labels of the servers that cannot be reached, though this process holds them.

        One whose socket was cleaned away with its folder runs for nobody.
        """
        return [server.label for server in self.servers if not server.is_alive() or not server.socket.exists()]

    def pids(self) -> dict[str, int | None]:
        """Return the process id of each server by its label. A new one tells that somebody had to start it again."""
        return {server.label: server.read_pid() for server in self.servers}

    def revive(self) -> list[str]:
        """Start the servers that died or cannot be reached; return their names."""
        turn = self._take_turn()
        try:
            self.layout.make_run()
            return self._ensure()
        finally:
            turn.close()

    def _ensure(self) -> list[str]:
        return [server.name for server in self.servers if server.ensure()]

    def _stop_if_last(self) -> None:
        assert self._hold is not None
        is_last = self._hold.try_exclusive()
        try:
            if is_last:
                for server in self.known:
                    server.stop()
                self.layout.run_link.unlink(missing_ok=True)
                self._remove_run_folder()
            else:
                for server in self.known:
                    server.let_go()
        finally:
            self._hold.close()
            self._hold = None

    def _remove_run_folder(self) -> None:
        # A killed server may have left its socket in it; then the next start cleans up.
        with contextlib.suppress(OSError):
            self.layout.run.rmdir()

    def _take_turn(self) -> Lock:
        turn = Lock(self.layout.lock("start"))
        if not turn.wait_exclusive(TURN_SECONDS):
            turn.close()
            raise EmbeddedError(
                f"Another process has been starting or stopping the servers of {str(self.layout.data)!r} for "
                f"{TURN_SECONDS:.0f} s. Try again when it is done."
            )
        return turn
