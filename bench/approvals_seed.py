"""Write the tables of a house in which ten thousand runs wait for people, and in which many were decided before.

The runs that wait are written by SQL as a run that parks leaves them. Their requests are made by the script that makes
them when a run parks, `approvals.asking.ask`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bench.stage import ROOT

CONFIG = ROOT / "bench" / "approvals.yml"
#: Who looks: a reviewer, for whom most waits; an operator, who sees all; one who is named in a few; one for whom none
#: waits.
REVIEWER, OPERATOR, NAMED, NOBODY = "rita", "olga", "nina", "ulla"
GROUP = "finance"
DECIDED = 100_000
#: Requests asked in one transaction.
_AT_ONCE = 500

_TABLES = (
    "jobs_job, jobs_jobevent, jobs_wait, jobs_worker, agents_run, agents_effect, approvals_approval, approvals_vote"
)

_RUNS = """
CREATE TEMPORARY TABLE bench_waiting ON COMMIT PRESERVE ROWS AS
SELECT n, uuidv7(make_interval(secs => n - {runs})) AS id, now() - make_interval(secs => {runs} - n) AS at
FROM generate_series(1, {runs}) n
"""
_JOBS = """
INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag, hold_keys, blocked_on,
    attempt, max_attempts, crashes, generation, fence, created_at, queued_at, claimed_at, started_at)
SELECT id, 'agent-run', '{{}}', {user}, 'waiting', 'queue', 'queue', 1, n / 100, ARRAY['all', 'lane:queue'], '{{}}',
    0, 3, 0, 1, 1, at, at, at, at
FROM bench_waiting ORDER BY n
"""
_AGENT_RUNS = """
INSERT INTO agents_run (job_id, endpoint_id, agent_id, mode, user_id, input, budget, seed, journal_epoch, steps_done,
    turns, input_tokens, output_tokens, cost_usd, cost_known, created_at)
SELECT w.id, e.id, e.agent_id, 'async-queue', {user}, to_jsonb('Pay bill ' || n), '{{}}', n, 1, 3, 1, 1200, 300, 0.004,
    true, at
FROM bench_waiting w JOIN agents_endpoint e ON e.name = CASE n % 50 WHEN 0 THEN 'file.v1' ELSE 'pay.v1' END
ORDER BY n
"""
_WAITS = """
INSERT INTO jobs_wait (job_id, kind, key, created_at)
SELECT id, 'person', 'approve calls 1#1', at FROM bench_waiting
"""
# As they are after some days: claims, first votes, and amounts as the arguments say.
_CLAIMS = """
UPDATE approvals_approval SET claimed_by_id = {reviewer}, claimed_until = now() + interval '10 minutes'
WHERE id IN (SELECT id FROM approvals_approval ORDER BY id LIMIT 30)
"""
_NAMED = """
UPDATE approvals_approval SET users = ARRAY['{named}']
WHERE id IN (SELECT id FROM approvals_approval ORDER BY id LIMIT 5)
"""
_VOTES = """
INSERT INTO approvals_vote (approval_id, user_id, user_name, decision, plan_hash, comment, void)
SELECT id, {reviewer}, '{name}', 'approve', plan_hash, '', false FROM approvals_approval WHERE quorum > 1
"""
# Those who may decide were told long ago: what is measured is waiting.
_TOLD = "UPDATE approvals_approval SET told_at = now()"
_DECIDED = """
INSERT INTO approvals_approval (id, kind, run_id, wait_key, requested_by_id, agent, agent_version, endpoint, title,
    reason, rules, asked_plan, plan, plan_hash, flagged, tools, amount_usd, version, state, groups, users, quorum,
    demands, not_own, links, webhook, created_at, deadline, sort_at, auto_action, escalate_to, decision, decided_at,
    decided_by, comment)
SELECT uuidv7(t.at - now()), 'plan', a.run_id, 'before ' || n, a.requested_by_id, a.agent, a.agent_version, a.endpoint,
    a.title, a.reason, a.rules, a.asked_plan, a.plan, a.plan_hash, '{{}}', a.tools, a.amount_usd, 1, s.state, a.groups,
    a.users, a.quorum, a.demands, false, false, false, t.at, t.at, t.at, 'reject', '',
    CASE s.state WHEN 'approved' THEN 'approve' WHEN 'superseded' THEN '' ELSE 'reject' END, t.at, '{{rolf}}', ''
FROM generate_series(1, {decided}) n,
    LATERAL (SELECT now() - make_interval(secs => n * 30) AS at) t,
    LATERAL (SELECT CASE WHEN n % 50 = 1 THEN 'expired' WHEN n % 20 = 3 THEN 'superseded' WHEN n % 5 = 0 THEN 'rejected'
        ELSE 'approved' END AS state) s
JOIN (SELECT *, row_number() OVER (ORDER BY id) AS nth FROM approvals_approval WHERE state = 'pending') a ON true
WHERE a.nth = 1 + n % {waiting}
"""


def seed(waiting: int, decided: int) -> None:
    """Empty the tables and fill them: so many requests that wait, so many that were decided."""
    from django.db import connection

    people = _people()
    sizes = {"runs": waiting, "waiting": waiting, "decided": decided, "user": people[NOBODY], "named": NAMED}
    sizes |= {"reviewer": people[REVIEWER], "name": REVIEWER}
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {_TABLES} CASCADE; DROP TABLE IF EXISTS bench_waiting")
        for sql in (_RUNS, _JOBS, _AGENT_RUNS, _WAITS):
            cursor.execute(sql.format(**sizes))
        cursor.execute("SELECT n, id FROM bench_waiting ORDER BY n")
        _ask(cursor.fetchall())
        for sql in (_CLAIMS, _NAMED, _VOTES, _TOLD, _DECIDED):
            cursor.execute(sql.format(**sizes))
        cursor.execute(f"VACUUM (ANALYZE) {_TABLES}")
        cursor.execute("CHECKPOINT")


def _ask(runs: list[tuple[int, UUID]]) -> None:
    """Ask about a plan of each run, as one that parks does."""
    from django.db import transaction

    from approvals.asking import ask
    from jobs import script

    for first in range(0, len(runs), _AT_ONCE):
        with transaction.atomic():
            for n, run_id in runs[first : first + _AT_ONCE]:
                script.run(ask(run_id, [_wait(n)]))


def _wait(n: int) -> Any:
    from agents.approval_rules import Rule
    from agents.runtime.plain import plain
    from agents.runtime.plans import Plan, PlannedCall
    from jobs.handlers import WaitFor

    words = f"Pay bill {n} of " + ("the mill" if n % 100 == 0 else "the harbour")
    arguments = {"bill": f"B-{n}", "amount_usd": n % 1000, "why": "It was delivered and found good. " * 10}
    call = PlannedCall(id="1", tool="file_bill" if n % 50 == 0 else "pay", arguments=arguments)
    plan = Plan(title=words, calls=(call,))
    groups = (GROUP,) if n % 10 == 0 else ("reviewer",)
    rule = Rule(name="bills", tools=("*",), groups=groups, quorum=2 if n % 20 == 1 else 1)
    why = [{"call": "1", "rules": [rule.as_json()]}]
    data = {"plan": plain(plan), "plan_hash": plan.hash, "rules": why, "reason": "a payment of a bill"}
    return WaitFor(kind="person", key="approve calls 1#1", data=data)


def _people() -> dict[str, int]:
    from django.contrib.auth.models import Group, User

    from accounts import roles
    from agents import registry

    registry.load(CONFIG)
    roles.make_groups(using="default")
    Group.objects.get_or_create(name=GROUP)
    found = {}
    people = {
        REVIEWER: roles.REVIEWER,
        "rolf": roles.REVIEWER,
        "fred": GROUP,
        "fay": GROUP,
        OPERATOR: roles.OPERATOR,
        NAMED: roles.USER,
        NOBODY: roles.USER,
    }
    for name, group in people.items():
        user, _ = User.objects.get_or_create(username=name)
        user.groups.add(Group.objects.get(name=group))
        found[name] = user.pk
    return found
