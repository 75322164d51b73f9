"""Judging what an answer says of refunds: it may claim nothing that the results of the shop's tools do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from agents.runtime.types import ToolCall, ToolResult
from agents.runtime.verifying import Verdict, passed

_ORDER = re.compile(r"\b[A-Z]{1,3}-\d{2,}\b", re.I)
_FIGURE = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_MONEY = re.compile(
    rf"(?:US\s?\$|\$|€|£|USD|EUR)\s?({_FIGURE})|({_FIGURE})\s?(?:US\s?dollars?|dollars?|USD|US\$|\$|EUR|euros?|€|£)",
    re.I,
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_CLAUSE = re.compile(
    r"[,:()–—]|\s-\s|\b(?:and|but|so|because|though|although|while|which|und|aber|y|pero|et|mais)\b", re.I
)
_DONE = (
    "issued|processed|sent|made|paid|done|completed?|approved|authori[sz]ed|granted|executed|initiated|credited|"
    "on (?:its|the) way|went through|gone through|successful(?:ly)?"
)
#: Words by which a clause says, or promises, that money goes back. English, and the commonest of some neighbours.
_CLAIM = re.compile(
    r"\brefunded\b|\b(?:will|shall|going to|I['’]ll)\b[^.?!]{0,20}\brefund\b|\brefunding\b"
    rf"|\brefunds?\b[^.?!]{{0,80}}\b(?:{_DONE})\b|\b(?:{_DONE})\b[^.?!]{{0,60}}\brefunds?\b"
    r"|\b(?:paid|sent|gave|given|transferred|credited)\b[^.?!]{0,60}\bback\b|\breimbursed\b|\bcredited\b"
    r"|\b(?:money|amount|USD|dollars|it) (?:is|was|has been|are|were|have been) (?:on (?:its|the) way|returned|back)\b"
    r"|\berstattet\b|\breembols(?:ado|amos|é)\b|\brembours(?:é|ée|és)\b|\brimborsat[oa]\b",
    re.I,
)
#: Words before it that make it no claim: negations, conditions, and what only could be.
_NO_CLAIM = re.compile(
    r"\b(?:not|no|never|nothing|none|cannot|if|once|when|unless|until|whether|nicht|kein|keine|pas|nada)\b|n['’]t\b"
    r"|\b(?:can|could|would|may|might)(?: \w+)? (?:be )?"
    r"(?:refund|paid|sent|credited|reimburs|issue|process|ma[dk]e|send)",
    re.I,
)


@dataclass(slots=True)
class Facts:
    """What is known of the shop in one run: from its tools, and from what the customer said."""

    #: Paid back, by order: each refund.
    refunded: dict[str, list[Decimal]] = field(default_factory=dict)
    #: What orders cost, and what is left of that: figures that go with a refund without being one.
    prices: set[Decimal] = field(default_factory=set)
    #: Every order and every amount that anybody has named.
    orders: set[str] = field(default_factory=set)
    amounts: set[Decimal] = field(default_factory=set)
    #: What became of each refund that was asked for, in words.
    told: list[str] = field(default_factory=list)

    def hear(self, text: str) -> None:
        """Take down which orders and amounts a customer names."""
        self.orders |= orders_in(text)
        self.amounts |= {*amounts_in(text), *_figures(text)}

    def learn(self, call: ToolCall, result: ToolResult) -> None:
        """Take down what a call came to."""
        self._name(call.arguments)
        self._name(result.content)
        content = result.content if isinstance(result.content, dict) else {}
        order = str(content.get("order_id", "")).upper()
        self.prices |= {found for key in ("paid_usd", "left_usd") if (found := _decimal(content.get(key))) is not None}
        if call.tool == "refund" and result.ok:
            amount = _decimal(content.get("amount_usd"))
            if order and amount is not None:
                self.refunded.setdefault(order, []).append(amount)
                self.told.append(f"{amount:.2f} USD of order {order} was refunded (refund {content.get('refund')}).")
            else:
                self._found_out(call, result.content)
        elif call.tool == "refund":
            self.told.append(f"{_asked(call)} was not refunded. {_ended(result.content)}")
        elif call.tool == "order_lookup" and content.get("refunds"):
            known = [_decimal(one.get("amount_usd")) for one in content["refunds"]]
            self.refunded[order] = [amount for amount in known if amount is not None]

    def paid_back(self, orders: set[str]) -> set[Decimal]:
        """Return what was paid back of these orders, or of any: each refund, and the sums."""
        chosen = [self.refunded.get(order, []) for order in orders] if orders else list(self.refunded.values())
        sums = [sum(refunds, Decimal(0)) for refunds in chosen]
        return {amount for refunds in chosen for amount in refunds} | {*sums, sum(sums, Decimal(0))}

    def _found_out(self, call: ToolCall, content: Any) -> None:
        """Take down a refund of which a person said that it was made: no amount is known but those that they name."""
        words = str(content)
        for order in orders_in(words) or orders_in(str(call.arguments.get("order_id", ""))):
            self.refunded.setdefault(order, []).extend(amounts_in(words))
            self.told.append(f"Order {order} was refunded, as a person found out. {_ended(content)}".rstrip())

    def _name(self, value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                self._name(inner)
        elif isinstance(value, list):
            for inner in value:
                self._name(inner)
        elif isinstance(value, str):
            self.hear(value)
        elif (amount := _decimal(value)) is not None:
            self.amounts.add(amount)

    def safe_text(self) -> str:
        """Say what happened, from the results alone."""
        if self.told:
            return "This is what the shop's books say:\n\n" + "\n".join(f"- {line}" for line in self.told)
        return (
            "I have not refunded anything. Tell me the number of the order and what is wrong with it, and I look it up."
        )


def judge(text: str, facts: Facts) -> Verdict:
    """Say whether an answer may leave: every order and amount in it is known, and every refund it claims was made."""
    reason = next(_faults(text, facts), "")
    return Verdict(ok=False, reason=reason, instead=facts.safe_text()) if reason else passed()


def _faults(text: str, facts: Facts) -> Iterator[str]:
    if strange := sorted(orders_in(text) - facts.orders):
        yield f"It names order {strange[0]}, which nobody has looked up or asked about."
    if unknown := sorted(set(amounts_in(text)) - facts.amounts - facts.paid_back(set())):
        yield f"It names {unknown[0]:.2f} USD, which no result has."
    for sentence in _SENTENCE.split(text):
        if not sentence.rstrip().endswith("?") and any(map(_claims, _CLAUSE.split(sentence))):
            yield from _unfounded(sentence, facts)


def _claims(clause: str) -> bool:
    """Tell whether a clause says that money went back, or will."""
    return any(not _NO_CLAIM.search(clause[: found.end()]) for found in _CLAIM.finditer(clause))


def _unfounded(sentence: str, facts: Facts) -> Iterator[str]:
    """Say what is wrong with a sentence that claims a refund."""
    orders, amounts = orders_in(sentence), set(amounts_in(sentence))
    if not facts.refunded:
        yield "It claims a refund, and none was made."
    for order in sorted(orders - facts.refunded.keys()):
        yield f"It claims a refund of order {order}, and none was made."
    made = facts.paid_back(orders)
    wrong = sorted(amounts - made - facts.prices) or sorted(amounts if not amounts & made else ())
    if wrong:
        yield f"It claims a refund of {wrong[0]:.2f} USD, and no such refund was made."


def orders_in(text: str) -> set[str]:
    """Return the numbers of orders in a text."""
    return {found.upper() for found in _ORDER.findall(text)}


def amounts_in(text: str) -> list[Decimal]:
    """Return the amounts of money in a text."""
    found = (_decimal((before or after).replace(",", "")) for before, after in _MONEY.findall(text))
    return [amount for amount in found if amount is not None]


def _figures(text: str) -> Iterator[Decimal]:
    for figure in re.findall(rf"(?<![\w-])(?:{_FIGURE})(?![\w-])", text):
        if (amount := _decimal(figure.replace(",", ""))) is not None:
            yield amount


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None


def _asked(call: ToolCall) -> str:
    amount, order = _decimal(call.arguments.get("amount_usd")), str(call.arguments.get("order_id", "")).upper()
    return f"{amount:.2f} USD of order {order}" if amount is not None else f"Order {order}"


def _ended(content: Any) -> str:
    text = " ".join(str(content).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def all_of(calls: Sequence[ToolCall], results: Sequence[ToolResult], facts: Facts) -> None:
    """Take down what the calls of a turn came to."""
    for call, result in zip(calls, results, strict=True):
        facts.learn(call, result)
