"""Asking: a run that parks for people makes requests, in the transaction in which it parks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from agents.approval_rules import Rule
from agents.runtime.approving import GATED
from agents.runtime.plain import plain
from approvals.models import Approval
from approvals.plan_words import currency_of, label_of, money, visible
from approvals.quorum import able, asked_of_too_few, kept
from approvals.terms import EFFECT_GROUPS, Demand, terms_of
from audit import trail
from audit.trail import SYSTEM
from jobs.handlers import WaitFor
from jobs.ids import uuid7
from jobs.script import Row, Script

logger = logging.getLogger(__name__)

#: Arguments that tell what a call is about in money, by their names.
_AMOUNTS = ("amount_usd", "usd", "amount", "price_usd", "total_usd")
MAX_TITLE = 300
#: Of a tool's name, as far as the list keeps it: a model may plan calls of tools that there are not.
MAX_NAME = 120
#: Characters of a number.
_MAX_DIGITS = 40


def ask(run_id: UUID, waits: Sequence[WaitFor]) -> Script[None]:
    """Make a request of each wait that people resolve. One that is pending stays as it is."""
    for wait in waits:
        if wait.data is None:
            continue
        values = _values(wait)
        made = yield (
            "INSERT INTO approvals_approval (id, kind, run_id, wait_key, requested_by_id, agent, agent_version,"
            " endpoint, title, reason, rules, asked_plan, plan, plan_hash, flagged, effect_id, tools, amount_usd,"
            " version, revises_id, state, groups, users, quorum, demands, delegated, not_own, links, webhook, deadline,"
            " sort_at, auto_action, remind_at, escalate_at, escalate_to, decided_by, decision, comment)"
            " SELECT %(id)s, %(kind)s, r.job_id, %(key)s::varchar, r.user_id, v.name, v.version, e.name, %(title)s,"
            " %(reason)s, %(rules)s, %(plan)s, %(plan)s, %(hash)s, %(flagged)s,"
            " (SELECT id FROM agents_effect WHERE key = %(effect)s), %(tools)s, %(amount)s,"
            " coalesce(before.version, 0) + 1, before.id, 'pending', %(groups)s, %(users)s, %(quorum)s, %(demands)s,"
            # What became of a call is not for whoever might not have decided on it either.
            " '{}', %(not_own)s OR coalesce((SELECT let.not_own FROM agents_effect e2"
            "   JOIN approvals_approval let ON let.id = e2.approval_id WHERE e2.key = %(effect)s), false),"
            " %(links)s, %(webhook)s, now() + make_interval(secs => %(deadline_s)s),"
            " now() + make_interval(secs => coalesce(%(deadline_s)s, 0)), %(auto)s,"
            " now() + make_interval(secs => %(remind_s)s), now() + make_interval(secs => %(escalate_s)s), %(to)s,"
            " '{}', '', ''"
            " FROM agents_run r JOIN agents_agentversion v ON v.id = r.agent_id"
            " JOIN agents_endpoint e ON e.id = r.endpoint_id"
            # The plan that people wanted changed, on the same line of the program: this one is its next version.
            " LEFT JOIN LATERAL (SELECT a.id, a.version, a.decision FROM approvals_approval a"
            "   WHERE a.run_id = r.job_id AND a.kind = %(kind)s AND starts_with(a.wait_key, %(line)s)"
            "   ORDER BY a.id DESC LIMIT 1) before ON before.decision = 'request_changes'"
            # What was resolved while the run was still parking needs no answer.
            " WHERE r.job_id = %(run)s AND NOT EXISTS (SELECT 1 FROM jobs_wait w WHERE w.job_id = %(run)s"
            "   AND w.key = %(key)s::varchar AND w.resolved_at IS NOT NULL)"
            " ON CONFLICT (run_id, wait_key) WHERE state = 'pending' DO NOTHING RETURNING id, version, requested_by_id",
            values | {"run": run_id},
        )
        for row in made:
            yield from _see_who_can(row, values)
            yield trail.statement(
                SYSTEM,
                "approval.request",
                "approval",
                row["id"],
                after={
                    "run": str(run_id),
                    "title": values["title"],
                    "tools": values["tools"],
                    "amount_usd": str(values["amount"]) if values["amount"] is not None else None,
                    "plan_hash": values["hash"],
                    "version": row["version"],
                    "groups": values["groups"],
                    "users": values["users"],
                    "quorum": values["quorum"],
                },
            )


def _see_who_can(row: Row, values: Mapping[str, Any]) -> Script[None]:
    """Say so in the request if fewer can decide on it than have to: then only its deadline ends it."""
    sole = Demand(tuple(values["groups"]), tuple(values["users"]), values["quorum"])
    for demand in values["each"] or (sole,):
        found = yield from able(
            demand.groups,
            demand.users,
            limit=demand.quorum,
            not_own=values["not_own"],
            requested_by=row["requested_by_id"],
        )
        if found < demand.quorum:
            logger.warning(
                "too few can decide",
                extra={"action": "approval_out_of_reach", "approval": str(row["id"]), "able": found},
            )
            yield (
                "UPDATE approvals_approval SET reason = concat_ws(E'\n', nullif(reason, ''), %s::text) WHERE id = %s",
                [asked_of_too_few(found, demand.quorum), row["id"]],
            )
            return


def supersede(run_id: UUID, waits: Sequence[WaitFor]) -> Script[None]:
    """Drop the requests that a run no longer waits for: all but those of ``waits``."""
    dropped = yield (
        "UPDATE approvals_approval SET state = 'superseded', decided_at = now(), claimed_by_id = NULL,"
        " claimed_until = NULL WHERE run_id = %s AND state = 'pending' AND NOT wait_key = ANY(%s) RETURNING id",
        [run_id, [wait.key for wait in waits]],
    )
    for row in dropped:
        yield trail.statement(SYSTEM, "approval.supersede", "approval", row["id"], after={"run": str(run_id)})


def note_deleted(approval: Approval) -> None:
    """Say in the trail that a request goes with its run: nobody decided on it, and nobody will."""
    if approval.is_pending:
        after = {"run": str(approval.run_id), "reason": "deleted"}
        trail.record(SYSTEM, "approval.supersede", "approval", approval.pk, after=after)


def _values(wait: WaitFor) -> dict[str, Any]:
    data = wait.data
    whys = data.get("rules", ())
    rules = [Rule.from_json(rule) for why in whys for rule in why["rules"]]
    terms = terms_of(rules)
    plan = data.get("plan")
    calls = plan["calls"] if plan else [{"tool": data["tool"], "arguments": data["arguments"]}]
    words = dict.fromkeys(rule.words() for rule in rules)
    reason = data.get("reason") or "; ".join(words)
    if not plan:
        reason = data.get("reason") or "It was begun, and nobody knows whether it took effect."
    span = terms.deadline.total_seconds()
    return {
        "id": uuid7(),
        "kind": "plan" if plan else "effect",
        "key": wait.key,
        "line": _line(wait.key),
        "title": title_of(plan, calls),
        "reason": plain(reason),
        "rules": Jsonb(list({rule.name: rule.as_json() for rule in rules}.values())),
        "plan": Jsonb(plan) if plan else None,
        "hash": data.get("plan_hash", ""),
        "flagged": [why["call"] for why in whys if any(rule.get("per_step") for rule in why["rules"])],
        "effect": data.get("effect", ""),
        "tools": tools_of(calls),
        "amount": amount_of(calls),
        "groups": list(terms.groups if plan or rules else EFFECT_GROUPS),
        "users": list(terms.users),
        # What became of a call one person says.
        "quorum": terms.quorum if plan else 1,
        "demands": Jsonb(kept(terms.demands) if plan else []),
        "each": terms.demands if plan else (),
        "not_own": terms.not_own and bool(plan),
        "links": terms.links and bool(rules and plan),
        "webhook": terms.webhook and bool(rules and plan),
        # Nobody knows what became of an effect until somebody says: there is no deadline for that.
        "deadline_s": span if plan else None,
        "auto": terms.auto_action,
        "remind_s": span - terms.remind.total_seconds() if terms.remind and plan else None,
        "escalate_s": terms.escalate_after.total_seconds() if terms.escalate_after and plan else None,
        "to": terms.escalate_to,
    }


def _line(key: str) -> str:
    """Return how the keys of all waits begin that follow one another in one place of the program.

    A plan that is revised is asked about under the same name, calls that are revised in a later turn of the model.
    """
    line, _, _ = key.rpartition("#")
    path, slash, name = line.rpartition("/")
    return f"{path}{slash}{GATED} " if name.startswith(f"{GATED} ") else f"{line}#"


def tools_of(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tools of calls, each once, in order."""
    return list(dict.fromkeys(call["tool"][:MAX_NAME] for call in calls))


def amount_of(calls: Sequence[Mapping[str, Any]]) -> Decimal | None:
    """Return what the calls are about in USD, as far as their arguments say; None if none does."""
    found = []
    for call in calls:
        amounts = (_amount(call["arguments"].get(name)) for name in _AMOUNTS)
        if (amount := next((amount for amount in amounts if amount is not None), None)) is not None:
            found.append(amount)
    total = sum(found, Decimal(0))
    return total if found and abs(total) < 10**15 else None


def _amount(value: Any) -> Decimal | None:
    """Return an amount in whole cents; None of what is none, or is more than there is money."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    text = str(value)
    if len(text) > _MAX_DIGITS:
        return None
    try:
        amount = Decimal(text.strip().lstrip("$").replace(",", ""))
    except InvalidOperation:
        return None
    # Looked at before anything is done with it: arithmetic on 1e999999999 fails.
    return amount.quantize(Decimal("0.01")) if amount.is_finite() and amount.adjusted() < 12 else None


def title_of(plan: Mapping[str, Any] | None, calls: Sequence[Mapping[str, Any]]) -> str:
    """Say in a line what a request is about."""
    text = plan["title"][:MAX_TITLE] if plan else ""
    if not text.split():
        text = _first(calls) if calls else "An empty plan"
    return " ".join(text.split())[:MAX_TITLE]


def _first(calls: Sequence[Mapping[str, Any]]) -> str:
    tool, arguments = calls[0]["tool"], calls[0]["arguments"]
    shown = [_said(name, value, arguments) for name, value in arguments.items() if isinstance(value, str | int | float)]
    said = f": {', '.join(shown[:3])}" if shown else ""
    return f"{label_of(tool)}{said}{f' and {len(calls) - 1} more' if len(calls) > 1 else ''}"


def _said(name: str, value: str | float, arguments: Mapping[str, Any]) -> str:
    """Return an argument in words: a sum with its currency, a text by itself, anything else with its name."""
    currency = currency_of(name, arguments)
    if currency and (sum_of_money := money(value, currency)):
        return sum_of_money
    text = visible(str(value)[:MAX_TITLE])
    label = label_of(name)
    return text if isinstance(value, str) and " " in text.strip() else f"{label[:1].lower()}{label[1:]} {text}"
