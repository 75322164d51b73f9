"""All processes of a session: a child that leads one, and whatever it and its own children started."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    return [pid for pid in _all_processes() if _session(pid) == session and not _is_zombie(pid)]


def send(session: int, number: signal.Signals) -> None:
    """Send a signal to every process of a session."""
    for pid in members(session):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _all_processes() -> list[int]:
    if Path("/proc/self").exists():
        return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    listed = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False
