"""Which user PostgreSQL runs as: it refuses root, and its set-up refuses a user id without a name."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from astra_site.embedded.errors import EmbeddedError
from astra_site.embedded.layout import NOBODY, Layout


@dataclass(frozen=True)
class Identity:
    """What to put before a command of PostgreSQL, and who must own its files."""

    prefix: tuple[str, ...]
    owner: int

    @classmethod
    def choose(cls, layout: Layout, program: Path) -> Identity:
        """Choose for the user who runs this process.

        An ordinary user needs nothing. Root, or a user without a name, steps into a user namespace that shows it
        another name: no file changes hands. Where namespaces are forbidden, root runs PostgreSQL as nobody.
        """
        me = os.geteuid()
        if me != 0 and _has_name(me):
            return cls((), me)
        shown = _some_name()
        prefix = ("unshare", "--user", f"--map-user={shown}", f"--map-group={shown}", "--")
        if _works([*prefix, "true"]):
            return cls(prefix, me)
        if me != 0:
            raise EmbeddedError(
                f"The embedded PostgreSQL needs a user with a name, and user id {me} has none in /etc/passwd. "
                "Add one, or set DATABASE_URL to a PostgreSQL of your own."
            )
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
        if not _works([*prefix, "true"]):
            raise EmbeddedError(
                "PostgreSQL does not run as root, and this machine lets root step into no other user. "
                "Start Astra as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
            )
        layout.data.chmod(0o711)
        for needed, test in ((layout.data, "-x"), (program, "-x")):
            if not _works([*prefix, "test", test, str(needed)]):
                raise EmbeddedError(
                    f"PostgreSQL does not run as root, and user nobody cannot reach {str(needed)!r}. Start Astra as an "
                    "ordinary user, or keep the checkout and ASTRA_DATA_DIR where everyone may look into."
                )
        return cls(prefix, NOBODY)

    def wrap(self, command: list[str]) -> list[str]:
        """Return ``command`` so that it runs as this identity."""
        return [*self.prefix, *command]

    def give(self, folder: Path) -> None:
        """Make this identity the owner of ``folder`` and all in it. Only root can meet a folder of another owner."""
        if folder.stat().st_uid == self.owner:
            return
        for inner in folder.rglob("*"):
            os.chown(inner, self.owner, -1, follow_symlinks=False)
        # Last, so that a walk cut short is taken up again.
        os.chown(folder, self.owner, -1)


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _some_name() -> int:
    """Return nobody's user id, or else the id of any user but root."""
    if _has_name(NOBODY):
        return NOBODY
    return next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid), NOBODY)


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
