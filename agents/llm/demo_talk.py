"""What the demo model makes of the conversation itself: what was said before, sums, and a summary of all of it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence

from agents.runtime.types import Message

_EARLIER = re.compile(
    r"\bwhat (?:did|have|had) (?:i|we) (?:just |already )?"
    r"(?:say|said|ask|asked|write|written|wrote|discuss|discussed|talk(?:ed)? about)"
    r"(?: to you| you)?(?: so far| before| earlier| just now| at first| first| last)?\W*$"
    r"|\bwhat (?:did|have) you (?:just )?(?:say|said|answer|answered|write|written)(?: before| earlier| just now)?\W*$"
    r"|\bwhat (?:was|were|is) (?:my|your) (?:very )?(?:last|first|previous|earlier) (?:message|question|answer|reply)"
    r"|\b(?:repeat|quote) (?:my|your) (?:last|first|previous) (?:message|question|answer|reply)"
    r"|\b(?:summari[sz]e|sum up|recap) (?:our|this|the) (?:conversation|chat|discussion|talk)"
    r"|\b(?:what did we talk about|what have we talked about|what was said before)\b",
    re.I,
)
_MINE = re.compile(r"\b(?:you (?:just )?(?:say|said|answer|answered|write|written)|your)\b", re.I)
_FIRST = re.compile(r"\bfirst\b", re.I)
_LAST = re.compile(r"\b(?:last|previous|just)\b", re.I)
_SUMMED_UP = re.compile(r"^\[This conversation has grown long\b[^\]]*\]\s*")
_COMPACT = re.compile(r"^Summarise the earlier part of this conversation:\s*")
_SPEAKER = re.compile(r"^(User|Assistant): ", re.M)
_SUM_LEAD = re.compile(r"^\W{0,3}?(?:what(?:'s| is)|calculate|compute|how much (?:is|are))\s+", re.I)
_SUM = re.compile(r"[\d\s.+*/x×÷()-]{3,100}", re.I)
#: A date or a telephone number, when nothing else says that it is a sum.
_NO_SUM = re.compile(r"[\d-]+")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
#: Messages that are listed, and characters of each.
_LISTED, _CHARACTERS = 6, 160


def asks_for_earlier(asked: str) -> bool:
    """Tell whether a message asks what was said in this conversation."""
    return bool(_EARLIER.search(asked))


def earlier(asked: str, messages: Sequence[Message]) -> str:
    """Return what was said before the last message of the user, as that asks for it."""
    last = max(at for at, message in enumerate(messages) if message.role == "user" and message.text.strip())
    before = [message for message in messages[:last] if message.text.strip()]
    summary = next((_SUMMED_UP.sub("", one.text) for one in before if _SUMMED_UP.match(one.text)), "")
    role = "assistant" if _MINE.search(asked) else "user"
    said = [one.text for one in before if one.role == role and not _SUMMED_UP.match(one.text)]
    parts = [_listed(asked, role, said)]
    if summary.strip() and not _LAST.search(asked):
        quoted = "\n".join(f"> {line}" for line in summary.strip().splitlines())
        parts.append(f"Of what was before that I only have a summary:\n\n{quoted}")
    return "\n\n".join(parts)


def _listed(asked: str, role: str, said: Sequence[str]) -> str:
    whose = "Your" if role == "user" else "My"
    if not said:
        return "Nothing yet: this is the beginning of our conversation."
    if _FIRST.search(asked):
        return f"{whose} first message was:\n\n> {_short(said[0])}"
    if _LAST.search(asked) or role == "assistant":
        return f"{whose} last message {'was' if role == 'user' else 'began'}:\n\n> {_short(said[-1])}"
    lines = "\n".join(
        f"{number}. {_short(text)}" for number, text in enumerate(said, 1) if number > len(said) - _LISTED
    )
    more = f" {len(said)} messages, the last of them" if len(said) > _LISTED else ""
    return f"Before this you wrote{more}:\n\n{lines}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else line[: _CHARACTERS - 1].rstrip() + "…"


def summary(asked: str) -> str:
    """Return a summary of a transcript: what its user said. "" when it is not asked for."""
    if not _COMPACT.match(asked):
        return ""
    pieces = _SPEAKER.split(_COMPACT.sub("", asked))
    said = [text for who, text in zip(pieces[1::2], pieces[2::2], strict=True) if who == "User"]
    known = [_SUMMED_UP.sub("", text).strip() for text in said if _SUMMED_UP.match(text)]
    fresh = [text for text in said if not _SUMMED_UP.match(text)]
    chosen = fresh if len(fresh) <= 2 * _LISTED else [*fresh[:_LISTED], *fresh[-_LISTED:]]
    return (
        "\n".join([*known, *(f"- The user said: {_short(text)}" for text in chosen)]) or "- Nothing of note was said."
    )


def calculation(asked: str) -> str:
    """Return a sum and what it comes to, "" when the message is none."""
    bare = _SUM_LEAD.sub("", asked).strip()
    written = " ".join(bare.rstrip("=?.! \n").split())
    if not _SUM.fullmatch(written) or (asked.strip() == written and _NO_SUM.fullmatch(written)):
        return ""
    try:
        tree = ast.parse(re.sub("[x×]", "*", written, flags=re.I).replace("÷", "/"), mode="eval").body
        return f"{written} = {_value(tree):.10g}" if isinstance(tree, ast.BinOp) else ""
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return ""


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("no sum")
