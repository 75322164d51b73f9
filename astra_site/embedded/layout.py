"""Where the embedded servers keep their files."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from functools import cached_property
from pathlib import Path

from astra_site.embedded.errors import EmbeddedError

# A Unix socket's path may be 104 bytes long on macOS and 108 on Linux, with the name of the socket in it.
LONGEST_RUN_DIR = 80
NOBODY = 65534


class Layout:
    """The paths of one data directory. Nothing is made until ``make``."""

    def __init__(self, data_dir: Path) -> None:
        self.data = Path(os.path.realpath(data_dir))
        self.postgres = self.data / "postgres"
        self.valkey = self.data / "valkey"
        self.logs = self.data / "logs"
        self.locks = self.data / "locks"
        self.run_link = self.data / "run"

    @cached_property
    def run(self) -> Path:
        """The private folder of the sockets: short-pathed, and the same for every process on this data directory.

        The first start leaves a link to it in the data directory, so that a process with another ``TMPDIR`` finds it.
        """
        try:
            linked = self.run_link.readlink()
        except OSError:
            pass
        else:
            if _is_private(linked):
                return linked
        name = f"astra-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]}"
        folder = Path(tempfile.gettempdir())
        if len(os.fsencode(folder / name)) > LONGEST_RUN_DIR:
            folder = Path("/tmp")  # noqa: S108  the folder made in it is checked to be private
        return folder / name

    @property
    def valkey_socket(self) -> Path:
        """Valkey's socket."""
        return self.run / "valkey.sock"

    @property
    def postgres_socket(self) -> Path:
        """PostgreSQL's socket, as it names it for port 5432."""
        return self.run / ".s.PGSQL.5432"

    def lock(self, name: str) -> Path:
        """The file that the lock ``name`` is taken on."""
        return self.locks / f"{name}.lock"

    def pid(self, name: str) -> Path:
        """The file that keeps the process id of server ``name``."""
        return self.locks / f"{name}.pid"

    def make_data(self) -> None:
        """Make the folders inside the data directory, for their owner alone; those above it stay as they are."""
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.logs, self.locks):
                folder.mkdir(mode=0o700, exist_ok=True)
            probe = os.access(self.locks, os.W_OK) and os.access(self.data, os.W_OK)
        except OSError as error:
            raise EmbeddedError(self._unusable(error.strerror or "unknown")) from None
        if not probe:
            raise EmbeddedError(self._unusable("it belongs to another user"))

    def make_run(self) -> None:
        """Make the run folder and link to it. Call it with the start lock held."""
        try:
            self.run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(f"The folder {str(self.run)!r} for sockets cannot be made: {error.strerror}.") from None
        if not _is_private(self.run):
            raise EmbeddedError(f"The folder {str(self.run)!r} for sockets is not this user's own; remove it.")
        linked = self.run_link.readlink() if self.run_link.is_symlink() else None
        if linked == self.run:
            return
        if linked and _is_private(linked):
            raise EmbeddedError(f"The servers were just started with their sockets in {str(linked)!r}. Try again.")
        self.run_link.unlink(missing_ok=True)
        self.run_link.symlink_to(self.run)

    def _unusable(self, reason: str) -> str:
        return (
            f"The data directory {str(self.data)!r} cannot be used: {reason}. "
            "Set ASTRA_DATA_DIR to a folder that you may write to."
        )


def _is_private(folder: Path) -> bool:
    """Whether ``folder`` is a real folder that only this user can enter (or nobody, on behalf of root)."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    owners = {os.geteuid()} | ({NOBODY} if os.geteuid() == 0 else set())
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners and stat.S_IMODE(found.st_mode) & 0o077 == 0
