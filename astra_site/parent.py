"""Processes that must not outlive the one that started them.

The parent keeps the write end of a pipe and its child the read end: when the parent is gone, however it went, the
kernel closes the pipe. Works on Linux and macOS, and through any number of threads.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import MutableMapping

#: The environment variable that names the child's end of the pipe.
PIPE = "ASTRA_PARENT_PIPE"
# How long an orphan may take to stop in order.
ORPHAN_SECONDS = 30.0


class Leash:
    """The parent's side: every child started with ``descriptor`` and ``environment`` ends when this process does."""

    def __init__(self) -> None:
        self.descriptor, self._held = os.pipe()

    def environment(self) -> dict[str, str]:
        """Return what the child's environment needs. Pass ``descriptor`` on with ``pass_fds``."""
        return {PIPE: str(self.descriptor)}

    def close(self) -> None:
        """Close both ends; children that still live are told to stop."""
        os.close(self.descriptor)
        os.close(self._held)


def follow(environment: MutableMapping[str, str]) -> None:
    """Stop this process, first by SIGTERM, when its parent is gone. Does nothing in a process without a leash."""
    named = environment.pop(PIPE, "")
    if not named:
        return
    descriptor = int(named)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_watch, args=(descriptor,), name="parent", daemon=True).start()


def _watch(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)
