"""The finished blocks of an answer that is being written, as HTML: a reader need not wait for its end to see a list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agents import markdown

#: A longer block stays as it was written until the answer ends. Characters.
MAX_BLOCK = 4_000
#: Nor is more than this of an answer shown so. Characters.
MAX_TEXT = 60_000

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Block:
    """One or more blocks that are new: ``html`` stands for the text from ``start`` to ``end``.

    Both count UTF-16 code units, as browsers do.
    """

    html: str
    start: int
    end: int


class Blocks:
    """What is finished of one text. The end of the answer renders the whole anew, for only then all of it is known."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: the text is another one."""
        self._html: list[str] = []
        self._upto = 0
        self._units = 0
        self._highest = 6

    @property
    def html(self) -> str:
        """What is finished so far."""
        return "".join(self._html)

    @property
    def end(self) -> int:
        """How much of the text that is, in UTF-16 code units."""
        return self._units

    def grow(self, text: str) -> Block | None:
        """Return what has been finished since the last call; None if nothing has."""
        if len(text) > MAX_TEXT:
            return None
        end = finished(text, self._upto)
        if end <= self._upto or end - self._upto > MAX_BLOCK:
            return None
        chunk, start = text[self._upto : end], self._units
        html, self._highest = markdown.render_block(chunk, self._highest)
        self._html.append(html)
        self._upto, self._units = end, start + len(chunk.encode("utf-16-le")) // 2
        return Block(html, start, self._units)


def finished(text: str, start: int) -> int:
    """Return where the last finished block ends of a text that still grows, looking from ``start`` on.

    A block has ended where an empty line stands outside of a code fence, and the next line begins at the margin: an
    indented one may belong to a list.
    """
    fence = ""
    end = start
    place = start
    after_blank = False
    for line in text[start:].splitlines(keepends=True):
        bare = line.strip()
        found = _FENCE.match(line)
        if after_blank and not fence and bare and not line[0].isspace():
            end = place
        if found and not fence:
            fence = found[1]
        elif found and fence and found[1].startswith(fence) and bare == found[1]:
            fence = ""
        after_blank = not bare and line.endswith("\n")
        place += len(line)
    return end
