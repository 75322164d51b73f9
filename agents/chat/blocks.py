"""The finished blocks of an answer that is being written, as HTML: a reader need not wait for its end to see a list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agents import markdown

#: After a longer block the rest stays as it was written until the answer ends. Characters.
MAX_BLOCK = 2_000
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
    """What is finished of one text. The end of the answer renders the whole anew, for only then all of it is known.

    A block has ended where an empty line stands outside of a code fence, and the next line begins at the margin: an
    indented one may belong to a list. Each line is looked at once, when it is whole.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: the text is another one."""
        self._html: list[str] = []
        #: Characters that are rendered, and those whose lines were looked at.
        self._upto = self._seen = 0
        self._units = 0
        self._highest = 6
        self._fence = ""
        self._after_blank = False
        self._has_ended = False

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
        if self._has_ended:
            return None
        end = self._finished(text)
        if end - self._upto > MAX_BLOCK or len(text) > MAX_TEXT or self._seen - self._upto > MAX_BLOCK:
            self._has_ended = True
            return None
        if end <= self._upto:
            return None
        chunk, start = text[self._upto : end], self._units
        html, self._highest = markdown.render_block(chunk, self._highest)
        self._html.append(html)
        self._upto, self._units = end, start + len(chunk.encode("utf-16-le")) // 2
        return Block(html, start, self._units)

    def _finished(self, text: str) -> int:
        """Return where the last finished block ends."""
        end = self._upto
        while True:
            newline = text.find("\n", self._seen)
            line = text[self._seen : newline if newline >= 0 else len(text)]
            if self._after_blank and not self._fence and line and not line[0].isspace():
                end = self._seen
            if newline < 0:
                return end
            self._take(line)
            self._seen = newline + 1

    def _take(self, line: str) -> None:
        bare = line.strip()
        found = _FENCE.match(line)
        if found and not self._fence:
            self._fence = found[1]
        elif found and found[1].startswith(self._fence) and bare == found[1]:
            self._fence = ""
        self._after_blank = not bare
