"""The demo model as a shop's clerk: which order to look up, what to refund, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from agents.runtime.types import Message, ToolCall, ToolResult

TOOLS = frozenset({"order_lookup", "refund"})
#: Orders that are seen to in one message.
MOST = 3
_ORDER = re.compile(r"\b[A-Z]{1,3}-\d{2,}\b", re.I)
_REFUND = re.compile(r"\b(?:refund|reimburse|money back|pay (?:me |him |her |them |it )?back|return)\b", re.I)
_ONLY_ASKS = re.compile(r"^\W*(?:was|were|has|have|had|did|is|what|which|how much|when|why|who)\b", re.I)
_MONEY = re.compile(
    r"(?:US\s?\$|\$|USD)\s?(\d[\d,]*(?:\.\d+)?)|(?<![\w.-])(\d[\d,]*(?:\.\d+)?)\s?(?:US\s?dollars?|dollars?|USD|\$)",
    re.I,
)
_FIGURE = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d{1,2})?(?![\w-])")
_LEAD = re.compile(
    r"^\W*(?:(?:please|can you|could you|hello|hi|hey|and|i want|i would like|i'd like|give me|to)\b[\s,]*)*"
    r"(?:(?:a |the )?(?:full |partial )?refund|reimburse|return|(?:my |the )?money back|pay (?:me )?back)?\b"
    r"[\s,]*(?:(?:of|for|on|my|the|order|number)\b[\s,]*)*",
    re.I,
)
_BECAUSE = re.compile(r"^(?:because|since|as|for|reason|usd|dollars)\b[\s:]*", re.I)

Wanted = tuple[str, dict[str, Any]]


def wanted(asked: str, before: Sequence[Message], since: Sequence[Message], offered: frozenset[str]) -> list[Wanted]:
    """Return the calls to make now: look the orders up first, then refund what the message says."""
    orders = _orders(asked) or (_last_named(before) if _REFUND.search(asked) else [])
    pairs = list(_pairs(since))
    looked_up = {str(call.arguments.get("order_id", "")).upper() for call, _ in pairs if call.tool == "order_lookup"}
    if "order_lookup" in offered and (unknown := [order for order in orders if order not in looked_up]):
        return [("order_lookup", {"order_id": order}) for order in unknown]
    if "refund" not in offered:
        return []
    if again := _revised(pairs):
        return again
    if not _REFUND.search(asked) or _ONLY_ASKS.match(asked) or any(call.tool == "refund" for call, _ in pairs):
        return []
    found = {str(result.content["order_id"]): result.content for call, result in pairs if _is_order(call, result)}
    amounts = _amounts(asked)
    calls: list[Wanted] = []
    for place, order in enumerate(orders):
        left = found[order]["left_usd"] if order in found else 0
        amount = amounts[min(place, len(amounts) - 1)] if amounts else left
        if 0 < amount <= left:
            calls.append(("refund", {"order_id": order, "amount_usd": amount, "reason": reason(asked)}))
    return calls


def _revised(pairs: Sequence[tuple[ToolCall, ToolResult]]) -> list[Wanted]:
    """Return a refund anew that a reviewer wanted differently, with the amount that they named."""
    if not pairs or pairs[-1][0].tool != "refund" or pairs[-1][1].error != "changes-requested":
        return []
    call, result = pairs[-1]
    comment = str(result.content).partition(":")[2]
    amounts = _amounts(comment)
    return [("refund", {**call.arguments, "amount_usd": amounts[0]})] if amounts else []


def text(asked: str, since: Sequence[Message]) -> str:
    """Say what the shop's tools returned, and nothing else."""
    pairs = list(_pairs(since))
    refunds = [_refund(call, result) for call, result in pairs if call.tool == "refund"]
    if refunds:
        return "\n\n".join(refunds)
    return "\n\n".join(_looked_up(asked, call, result) for call, result in pairs if call.tool == "order_lookup")


def _refund(call: ToolCall, result: ToolResult) -> str:
    wanted, order = float(call.arguments.get("amount_usd", 0)), str(call.arguments.get("order_id", "")).upper()
    if not result.ok:
        return f"I did not refund order {order}: no money went out.\n\n> {_line(result.content)}"
    content = result.content
    if not (isinstance(content, dict) and {"amount_usd", "order_id", "refund", "left_usd"} <= content.keys()):
        # Nobody knew how the call had ended, and a person found out: theirs are other words than the tool's.
        return f"The refund of order {order} was made, as a person found out.\n\n> {_line(content)}"
    said = (
        f"I refunded **{_usd(content['amount_usd'])}** of order {content['order_id']} (refund {content['refund']}). "
        f"{_usd(content['left_usd'])} remain of what was paid."
    )
    if abs(float(content["amount_usd"]) - wanted) >= 0.01:
        said += f"\n\nYou had asked for {_usd(wanted)}. A reviewer changed the amount."
    return said


def _looked_up(asked: str, call: ToolCall, result: ToolResult) -> str:
    if not result.ok:
        return _line(result.content)
    order = result.content
    said = f"Order {order['order_id']}: {order['item']}, {_usd(order['paid_usd'])}, bought by {order['customer']}."
    if order["refunds"]:
        said += "\n\nPaid back so far:\n\n" + "\n".join(
            f"- {_usd(one['amount_usd'])} (refund {one['refund']}): {_line(one['reason'])}" for one in order["refunds"]
        )
    else:
        said += " Nothing of it was paid back."
    if _REFUND.search(asked) and not _ONLY_ASKS.match(asked):
        said += f"\n\nI did not start a refund: at most {_usd(order['left_usd'])} could be paid back."
    return said


def reason(asked: str) -> str:
    """Return why a message wants its money back, as far as it says."""
    first, *more = re.split(r"[,.;:]", _FIGURE.sub(" ", _MONEY.sub(" ", _ORDER.sub(" ", asked))))
    parts = [_LEAD.sub("", first.strip(), count=1), *(part.strip() for part in more)]
    parts = [_BECAUSE.sub("", part).strip(" -") for part in parts]
    said = ", ".join(part for part in parts if len(part.split()) > 1) or "The customer asked for it"
    return (said[:1].upper() + said[1:])[:300] + "."


def _orders(text: str) -> list[str]:
    return list(dict.fromkeys(found.upper() for found in _ORDER.findall(text)))[:MOST]


def _last_named(before: Sequence[Message]) -> list[str]:
    """Return the order that the conversation was about last."""
    return next((found[-1:] for said in reversed(before) if (found := _orders(said.text))), [])


def _amounts(text: str) -> list[float]:
    """Return the amounts in a text: those with a currency, else bare figures."""
    bare = _ORDER.sub(" ", text)
    found = [before or after for before, after in _MONEY.findall(bare)] or _FIGURE.findall(bare)
    return [float(figure.replace(",", "")) for figure in found]


def _pairs(since: Sequence[Message]) -> Iterator[tuple[ToolCall, ToolResult]]:
    """Yield each call with what came of it."""
    results = {result.call_id: result for message in since for result in message.results}
    for message in since:
        for call in message.calls:
            if call.tool in TOOLS and call.id in results:
                yield call, results[call.id]


def _is_order(call: ToolCall, result: ToolResult) -> bool:
    return call.tool == "order_lookup" and result.ok and isinstance(result.content, dict)


def _usd(amount: Any) -> str:
    return f"{float(amount):,.2f} USD"


def _line(content: Any) -> str:
    return " ".join(str(content).split())
