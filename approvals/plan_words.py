"""Calls in words, for people who decide on them and are no engineers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from agents import registry, services
from agents.tools.registry import Tool
from agents.tools.toolbox import LocalToolBox, UnknownTool

Kind = Literal["text", "number", "money", "long", "list", "json"]

#: A text of more characters, or of several lines, is read as a document.
MAX_LINE = 160
MAX_TITLE = 160
#: As many items of a list are shown as a list; a longer one, or one of other things than plain values, is JSON.
MAX_LIST = 50
_CURRENCIES = frozenset("usd eur gbp chf jpy cny inr cad aud sek nok dkk pln czk huf brl mxn krw sgd nzd zar".split())  # noqa: SIM905
_MONEY = frozenset({"amount", "price", "total", "sum", "refund", "cost", "fee", "budget"})
_CAPITALS = frozenset({"api", "csv", "html", "iban", "id", "ip", "json", "pdf", "sql", "url", "vat"})
#: Numbers that name something are not set apart in thousands.
_NAMES = frozenset("account code customer id invoice no number order phone pin port ticket year zip".split())  # noqa: SIM905
_UNDO = {True: "Can be undone", False: "Cannot be undone", None: "Nobody knows whether it can be undone"}


@dataclass(frozen=True, slots=True)
class Row:
    """One argument of a call: what it is called, and what it is."""

    name: str
    label: str
    #: Of ``text``, ``number`` and ``money`` the text to show, of ``list`` a list of those, of ``json`` the value with
    #: its texts to show; of ``long`` as it is in the plan.
    value: Any
    kind: Kind
    #: What the tool's docstring says of it.
    help: str = ""


@dataclass(frozen=True, slots=True)
class CallWords:
    """One call of a plan, in words."""

    id: str
    tool: str
    #: What the tool does: the first sentence of its docstring.
    title: str
    #: Why the agent wants it.
    why: str
    touches: tuple[str, ...]
    #: Whether it can be undone, in words; ``undoable`` is None where nobody knows.
    undo: str
    undoable: bool | None
    #: What it costs to run, in USD; None where nobody says.
    cost: Decimal | None
    rows: tuple[Row, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gist(self) -> str:
        """Its arguments in one line."""
        short = [f"{row.label} {row.value}" for row in self.rows if row.kind in ("text", "number", "money")]
        return " · ".join(short)[:MAX_LINE]


def calls_of(plan: Mapping[str, Any]) -> list[CallWords]:
    """Return the calls of a plan, as `Approval.plan` holds it, in the order in which they are to run."""
    toolbox = services.toolbox(registry.current().tool_overrides)
    return [_call(toolbox, call) for call in plan.get("calls", ())]


def call_of(tool: str, arguments: Mapping[str, Any]) -> CallWords:
    """Return one call that is in no plan, as an effect is."""
    toolbox = services.toolbox(registry.current().tool_overrides)
    known = tool_of(toolbox, tool)
    said: dict[str, Any] = {"tool": tool, "arguments": arguments}
    if known is not None:
        said |= {"touches": known.touches, "undoable": known.undoable}
    return _call(toolbox, said)


def tool_of(toolbox: LocalToolBox, name: str) -> Tool[..., Any] | None:
    """Return a tool, or None if it is registered no more."""
    try:
        return toolbox.get(name)
    except UnknownTool:
        return None


def properties_of(tool: Tool[..., Any] | None) -> Mapping[str, Any]:
    """Return the schema of each argument that a tool takes, by name; none of a tool that nobody knows."""
    found: Mapping[str, Any] = tool.signature.json_schema["properties"] if tool is not None else {}
    return found


def label_of(name: str) -> str:
    """Return the name of an argument as a person would say it: ``amount_usd`` is Amount."""
    parts = [part for part in re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) if part]
    if len(parts) > 1 and parts[-1].lower() in _CURRENCIES:
        parts = parts[:-1]
    words = " ".join(part.upper() if part.lower() in _CAPITALS else part.lower() for part in parts)
    return words[:1].upper() + words[1:] or name


def visible(text: str) -> str:
    """Return a text with the characters spelled out that would show it as something that it is not.

    Marks that turn the direction of writing, that take no room, or that move the cursor: ``⟨U+202E⟩``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(one) if _is_hidden(one) else one for one in text)


def money(value: object, currency: str) -> str:
    """Return a sum with its currency, exact: ``$1,250.00``, ``99.50 EUR``; nothing if it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return ""
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        return ""
    if not amount.is_finite() or abs(amount.adjusted()) > 18:
        return ""
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent > -2:
        amount = amount.quantize(Decimal("0.01"))
    sign = "−" if amount < 0 else ""
    return f"{sign}${abs(amount):,f}" if currency == "USD" else f"{sign}{abs(amount):,f} {currency}"


def row_of(name: str, value: Any, arguments: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> Row:
    """Return one argument of a call as a person reads it."""
    described = str((schema or {}).get("description", ""))
    currency = currency_of(name, arguments)
    label = visible(label_of(name))
    if currency and (sum_ := money(value, currency)):
        return Row(name, label, sum_, "money", described)
    kind, shown = _shown(name, value)
    if currency and kind in ("number", "text"):
        label = f"{label} ({currency})"
    return Row(name, label, shown, kind, described)


def _call(toolbox: LocalToolBox, call: Mapping[str, Any]) -> CallWords:
    tool = tool_of(toolbox, call["tool"])
    properties = properties_of(tool)
    arguments: Mapping[str, Any] = call.get("arguments") or {}
    # In the order of the tool's own parameters: the database keeps none.
    names = sorted(arguments, key=lambda name: [*properties, name].index(name))
    undoable = call.get("undoable")
    cost = call.get("cost_usd")
    return CallWords(
        id=str(call.get("id", "")),
        tool=call["tool"],
        title=_title(tool, call["tool"]),
        why=visible(str(call.get("why", ""))),
        touches=tuple(visible(str(one)) for one in call.get("touches", ())),
        undo=_UNDO[undoable],
        undoable=undoable,
        cost=Decimal(str(cost)) if cost is not None else None,
        rows=tuple(row_of(name, arguments[name], arguments, properties.get(name)) for name in names),
        arguments=arguments,
    )


def _title(tool: Tool[..., Any] | None, name: str) -> str:
    text = " ".join(tool.spec.description.split()) if tool is not None else ""
    if not text:
        return visible(label_of(name))
    first = re.split(r"(?<=[.!?:])\s", text, maxsplit=1)[0].rstrip(".:")
    return first if len(first) <= MAX_TITLE else f"{first[: MAX_TITLE - 1]}…"


def currency_of(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the currency of an argument: said by its name, or beside it; nothing where it is no sum of money."""
    parts = [part for part in re.split(r"[_\W]+", name.lower()) if part]
    for part in parts[-1:] + parts[:1]:
        if part in _CURRENCIES:
            return part.upper()
    beside = arguments.get("currency")
    if isinstance(beside, str) and beside.lower() in _CURRENCIES and _MONEY & set(parts):
        return beside.upper()
    return ""


def _shown(name: str, value: Any) -> tuple[Kind, Any]:
    if isinstance(value, str):
        return _of_text(value)
    if value is None or isinstance(value, bool):
        return "text", {None: "Nothing", True: "Yes", False: "No"}[value]
    if isinstance(value, int | float):
        return "number", _figure(name, value)
    if isinstance(value, list) and value and _is_plain(value):
        return "list", [str(_shown(name, one)[1]) for one in value]
    return ("text", "None") if value in ([], {}) else ("json", _all_visible(value))


def _all_visible(value: Any) -> Any:
    """Return a value whose texts and names are `visible`, however deep they are."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, inner in value.items():
            shown = visible(name)
            while shown in found:  # none is hidden behind another that looks like it
                shown = f"{shown} (another)"
            found[shown] = _all_visible(inner)
        return found
    return [_all_visible(inner) for inner in value] if isinstance(value, list) else value


def _of_text(value: str) -> tuple[Kind, str]:
    if not value.strip():
        return "text", "(empty)" if not value else "(only spaces)"
    is_long = len(value) > MAX_LINE or "\n" in value.strip()
    return ("long", value) if is_long else ("text", visible(value))


def _figure(name: str, value: float) -> str:
    parts = set(re.split(r"[_\W]+", name.lower()))
    return json.dumps(value) if parts & _NAMES else f"{value:,}"


def _is_plain(values: Sequence[Any]) -> bool:
    return len(values) <= MAX_LIST and all(
        one is None or isinstance(one, bool | int | float) or (isinstance(one, str) and _of_text(one)[0] == "text")
        for one in values
    )


def _is_hidden(one: str) -> bool:
    if one in "\n\t\u200d":  # a joiner makes one sign of two in many scripts
        return False
    return unicodedata.category(one) in ("Cc", "Cf", "Co", "Zl", "Zp")


def _spelled(one: str) -> str:
    return "" if one == "\r" else f"⟨U+{ord(one):04X}⟩"
