"""What is wrong with an `astra.yml`, and how it is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Keys and list positions from the top of the file.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, and what to do about it."""

    file: str
    line: int
    path: Path
    message: str

    def __str__(self) -> str:
        where = dotted(self.path)
        return (
            f"{self.file}:{self.line}: {where}: {self.message}" if where else f"{self.file}:{self.line}: {self.message}"
        )


class ConfigError(Exception):
    """The configuration can't be used. ``faults`` holds all that is wrong, in the order of the file."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.line)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def dotted(path: Path) -> str:
    """Write a path as `agents.assistant.tools[2]`; a key with a dot of its own is bracketed too."""
    text = ""
    for part in path:
        if isinstance(part, int) or "." in part:
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def snake(key: str) -> str:
    """Return the snake_case spelling of a camelCase key; a snake_case key stays as it is."""
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and index else letter.lower() for index, letter in enumerate(key)
    )


def camel(key: str) -> str:
    """Return the camelCase spelling of a snake_case key."""
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean x?`, or the list of what is known where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(names)}" if names else "nothing is declared here"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a key is unknown and name the nearest, spelled in the writer's own style."""
    spelled = {camel(name) if key != snake(key) else name for name in known}
    return f"unknown key; {nearest(key, spelled)}"


def shown(value: Any) -> str:
    """Return a value short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
