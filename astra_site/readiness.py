"""How a child process tells the one that started it that it does its work now: it closes its end of a pipe with a word.

A child that ends without the word, or one that knows nothing of all this, was never ready.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress

#: The environment variable that names the child's end of the pipe.
PIPE = "ASTRA_READINESS_PIPE"
WORD = b"ready"


class Readiness:
    """The parent's side, for one child."""

    def __init__(self) -> None:
        self._read, self.descriptor = os.pipe()
        os.set_blocking(self._read, False)
        self._is_there = False
        self._is_open = True

    def environment(self) -> dict[str, str]:
        """Return what the child's environment needs. Pass ``descriptor`` on with ``pass_fds``."""
        return {PIPE: str(self.descriptor)}

    def begin(self) -> None:
        """Begin to listen, once the child was started."""
        os.close(self.descriptor)

    def is_there(self) -> bool:
        """Tell whether the child has said that it is ready."""
        if self._is_open:
            with suppress(BlockingIOError):
                self._is_there = os.read(self._read, len(WORD)) == WORD
                self.close()  # with or without the word, nothing more will come
        return self._is_there

    def close(self) -> None:
        """Listen no more."""
        if self._is_open:
            self._is_open = False
            os.close(self._read)


def tell(environment: MutableMapping[str, str]) -> None:
    """Say that this process is ready. Does nothing in one that nobody asked."""
    named = environment.pop(PIPE, "")
    if named:
        with suppress(OSError):  # nobody may be listening any more
            os.write(int(named), WORD)
        os.close(int(named))
