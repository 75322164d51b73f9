"""What is different between two versions of a plan, call by call and word by word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from approvals.plan_words import MAX_LINE, CallWords, Row, calls_of, money, visible

What = Literal["changed", "added", "removed", "moved"]
Op = Literal["same", "out", "in", "fold"]

#: Comparing costs as much as the one side's parts times the other's; so much is spent on all of a plan. Whatever is
#: beyond that is shown as taken out and put in whole.
BUDGET = 2_000_000
#: What is the same is folded but for so many characters beside a difference.
CONTEXT = 160
#: What was taken out or put in is cut after so many.
MAX_SHOWN = 20_000
_PARTS = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text: the same in both, only in the old one (``out``) or only in the new one (``in``)."""

    op: Op
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One argument that is not the same."""

    label: str
    #: None where the one side does not have it at all.
    before: str | None
    after: str | None
    pieces: Sequence[Piece]

    @property
    def is_text(self) -> bool:
        """Whether the two are worth comparing word by word."""
        return any(piece.op == "same" for piece in self.pieces)

    @property
    def is_long(self) -> bool:
        """Whether one of the two takes more than a line."""
        return any(len(text) > MAX_LINE or "\n" in text for text in (self.before, self.after) if text is not None)


@dataclass(frozen=True, slots=True)
class CallChange:
    """One call that is not the same."""

    what: What
    #: Its number: in the new plan, or of one that was removed in the old.
    place: int
    call: CallWords
    differences: Sequence[Difference] = ()


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """All that is different between two plans."""

    #: Of the title and the summary.
    about: Sequence[Difference]
    calls: Sequence[CallChange]
    #: How many calls are as they were.
    same: int

    def __bool__(self) -> bool:
        return bool(self.about or self.calls)

    @property
    def words(self) -> str:
        """Say it in a line: ``1 step changed, 1 left out``."""
        names = {"changed": "changed", "added": "added", "removed": "left out", "moved": "moved"}
        counts = {what: sum(call.what == what for call in self.calls) for what in names}
        said = [f"{count} {names[what]}" for what, count in counts.items() if count]
        if not said:
            return "only its title or summary" if self.about else "nothing"
        first, *more = said
        number = next(count for count in counts.values() if count)
        noun = "step" if number == 1 else "steps"
        return ", ".join([first.replace(" ", f" {noun} ", 1), *more])


def between(old: Mapping[str, Any], new: Mapping[str, Any]) -> PlanDiff:
    """Return what is different in ``new``. Both are plans as `Approval.plan` holds them."""
    compare = _Compare()
    before, after = calls_of(old), calls_of(new)
    pairs = _pairs(before, after)
    was_there = dict(zip(sorted(pairs), sorted(pairs.values()), strict=True))
    changes: list[CallChange] = []
    for place, call in enumerate(after):
        if place not in pairs:
            changes.append(CallChange("added", place + 1, call, compare.calls(None, call)))
            continue
        differences = compare.calls(before[pairs[place]], call)
        if differences:
            changes.append(CallChange("changed", place + 1, call, differences))
        elif was_there[place] != pairs[place]:
            changes.append(CallChange("moved", place + 1, call))
    gone = set(range(len(before))) - set(pairs.values())
    changes += [CallChange("removed", place + 1, before[place]) for place in sorted(gone)]
    about = [
        difference
        for name in ("title", "summary")
        if (difference := compare.texts(name.capitalize(), old.get(name) or None, new.get(name) or None))
    ]
    touched = sum(change.what != "removed" for change in changes)
    return PlanDiff(about, changes, len(after) - touched)


def _pairs(before: Sequence[CallWords], after: Sequence[CallWords]) -> dict[int, int]:
    """Return by place in the new plan the place in the old: of the same id and tool, else the next of that tool."""
    old = {(call.id, call.tool): place for place, call in enumerate(before)}
    found = {place: old.pop((call.id, call.tool)) for place, call in enumerate(after) if (call.id, call.tool) in old}
    left: dict[str, list[int]] = {}
    for (_, tool), place in old.items():
        left.setdefault(tool, []).append(place)
    for place, call in enumerate(after):
        if place not in found and left.get(call.tool):
            found[place] = left[call.tool].pop(0)
    return found


class _Compare:
    """Compares texts as long as there is budget for it."""

    def __init__(self) -> None:
        self._left = BUDGET

    def calls(self, old: CallWords | None, new: CallWords) -> list[Difference]:
        rows = {row.name: row for row in old.rows} if old is not None else {}
        found = []
        for name in dict.fromkeys([*(row.name for row in new.rows), *rows]):
            was, now = rows.get(name), next((row for row in new.rows if row.name == name), None)
            if was is None or now is None or old is None or old.arguments[name] != new.arguments[name]:
                label = (now or was).label  # type: ignore[union-attr]  # one of them has it
                before, after = _text(was), _text(now)
                if before == after and old is not None:  # shown alike, and not the same: the text "150", the number
                    before, after = (json.dumps(call.arguments[name], ensure_ascii=False) for call in (old, new))
                found.append(self.texts(label, before, after))
        if old is not None:
            found += [self.texts(label, was or None, now or None) for label, was, now in _said(old, new)]
        return [difference for difference in found if difference]

    def texts(self, label: str, before: str | None, after: str | None) -> Difference | None:
        if before == after:
            return None
        pieces: list[Piece] = []
        if before is not None and after is not None and (len(before) > 40 or len(after) > 40):
            pieces = _folded(_merged(self._lines(visible(before), visible(after))))
        return Difference(label, _cut(before), _cut(after), pieces)

    def _lines(self, before: str, after: str) -> Iterator[Piece]:
        for old, new, same in self._matched(before.splitlines(keepends=True), after.splitlines(keepends=True)):
            if same:
                yield Piece("same", new)
            else:
                yield from self._words(old, new)

    def _words(self, before: str, after: str) -> Iterator[Piece]:
        for old, new, same in self._matched(_PARTS.findall(before), _PARTS.findall(after)):
            if same:
                yield Piece("same", new)
            else:
                yield Piece("out", old)
                yield Piece("in", new)

    def _matched(self, before: list[str], after: list[str]) -> Iterator[tuple[str, str, bool]]:
        """Yield stretches of both, and whether they are the same."""
        head = 0
        while head < min(len(before), len(after)) and before[head] == after[head]:
            head += 1
        tail = 0
        while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
            tail += 1
        yield "".join(before[:head]), "".join(after[:head]), True
        old, new = before[head : len(before) - tail], after[head : len(after) - tail]
        cost = len(old) * len(new)
        if cost > self._left:
            yield "".join(old), "".join(new), False
        else:
            self._left -= cost
            for op, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
                yield "".join(old[i:j]), "".join(new[k:m]), op == "equal"
        end = after[len(after) - tail :]
        yield "".join(end), "".join(end), True


def _said(old: CallWords, new: CallWords) -> Iterator[tuple[str, str, str]]:
    """Yield what the agent says of the call beside its arguments."""
    yield "Why", old.why, new.why
    yield "It touches", ", ".join(old.touches), ", ".join(new.touches)
    yield "Undoing", old.undo, new.undo
    yield "Cost", money(old.cost, "USD"), money(new.cost, "USD")


def _text(row: Row | None) -> str | None:
    if row is None:
        return None
    if row.kind == "list":
        return "\n".join(f"• {one}" for one in row.value)
    if row.kind == "json":
        return json.dumps(row.value, ensure_ascii=False, indent=2)
    return str(row.value)


def _cut(text: str | None) -> str | None:
    return text if text is None else _shortened(visible(text))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def _merged(pieces: Iterator[Piece]) -> list[Piece]:
    """Join neighbours of one kind; of a run of differences, first all that was taken out."""
    found: list[Piece] = []
    out = new = ""
    for piece in [*pieces, Piece("same", "")]:
        if piece.op == "out":
            out += piece.text
        elif piece.op == "in":
            new += piece.text
        elif piece.text or out or new:
            if piece.text or piece.op == "same":
                found += [Piece(op, _shortened(text)) for op, text in (("out", out), ("in", new)) if text]  # type: ignore[arg-type]
                out = new = ""
            if found and found[-1].op == "same":
                found[-1] = Piece("same", found[-1].text + piece.text)
            elif piece.text:
                found.append(piece)
    return found


def _folded(pieces: Sequence[Piece]) -> list[Piece]:
    if not any(piece.op == "same" for piece in pieces):
        return []
    found: list[Piece] = []
    for place, piece in enumerate(pieces):
        first, last = place == 0, place == len(pieces) - 1
        head, tail = (0 if first else CONTEXT), (0 if last else CONTEXT)
        if piece.op != "same" or len(piece.text) <= head + tail + 80:
            found.append(piece)
            continue
        hidden = len(piece.text) - head - tail
        parts = [
            Piece("same", piece.text[:head]),
            Piece("fold", f"{hidden:,}"),
            Piece("same", piece.text[len(piece.text) - tail :]),
        ]
        found += [part for part in parts if part.text]
    return found
