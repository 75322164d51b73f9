"""What may be wrong with this installation, found by trying: one check per subject."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection

from agents import registry
from agents.approval_rules import Rule
from approvals import quorum
from approvals.locking import named
from astra_site import health, reach, schema
from jobs import lane_samples, lanes, queries, script
from jobs.models import Hold
from jobs.notify import channels, mail

if TYPE_CHECKING:
    from agents.config import Config

OLDEST_POSTGRES = 14
OLDEST_REDIS = 7
# A lease holds for six seconds in the database's time; schedules and tokens go by each machine's own.
SKEW_S = 1.0
# Lanes are sampled once a minute, by whichever scheduler is first.
SAMPLED_WITHIN_S = 120
# Whoever works on an operation has a turn every few seconds.
WORKED_ON_WITHIN_S = 60
HOLDS_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: a sentence, and whether it is a fault, or worth knowing without being one."""

    subject: str
    sentence: str
    is_fault: bool = False
    is_note: bool = False


def examine() -> Iterator[Finding]:
    """Yield what each check finds. What needs a server that does not answer is left out."""
    if fault := reach.redis_fault():
        yield Finding("redis", fault, is_fault=True)
    else:
        yield from check_redis()
    if fault := reach.database_fault():
        yield Finding("database", fault, is_fault=True)
    else:
        yield from check_database()
        yield from check_migrations()
    yield from check_agents()


def check_database() -> Iterator[Finding]:
    """PostgreSQL is new enough and has our time."""
    with connection.cursor() as cursor:
        began = time.time()
        cursor.execute(
            "SELECT current_setting('server_version_num')::int / 10000, extract(epoch FROM clock_timestamp())"
        )
        version, moment = cursor.fetchone()
        took = time.time() - began
    if version < OLDEST_POSTGRES:
        sentence = f"PostgreSQL {version} is too old; Astra needs {OLDEST_POSTGRES} or newer."
        yield Finding("database", sentence, is_fault=True)
    else:
        yield Finding("database", f"PostgreSQL {version} answers in {took * 1000:.1f} ms.")
    yield _clock("the database", float(moment) - began - took / 2)


def check_redis() -> Iterator[Finding]:
    """Redis is new enough and has our time."""
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=reach.SECONDS) as client:
        about = client.info("server")
        began = time.time()
        seconds, micros = client.time()
        took = time.time() - began
    version = str(about.get("valkey_version") or about["redis_version"])
    name = "Valkey" if "valkey_version" in about else "Redis"
    if int(version.split(".")[0]) < OLDEST_REDIS:
        yield Finding("redis", f"{name} {version} is too old; Astra needs {OLDEST_REDIS} or newer.", is_fault=True)
    else:
        yield Finding("redis", f"{name} {version} answers in {took * 1000:.1f} ms.")
    yield _clock("Redis", seconds + micros / 1e6 - began - took / 2)


def check_migrations() -> Iterator[Finding]:
    """The database has every migration; if so, somebody does each part of the work."""
    if missing := schema.missing():
        names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        sentence = f"The database lacks {len(missing)} migrations ({names}). Run manage.py migrate."
        yield Finding("migrations", sentence, is_fault=True)
    else:
        yield Finding("migrations", "The database has every migration.")
        yield from check_lanes()
        yield from check_scheduler()
        yield from check_operations()
        yield from check_holds()
        yield from check_notices()
        yield from check_approvals()


def check_lanes() -> Iterator[Finding]:
    """Every lane has a live worker."""
    if idle := health.idle_lanes():
        sentence = f"No worker serves {', '.join(idle)}. Run manage.py up, or manage.py worker for these lanes"
        sentence += " (manage.py web for chat)." if lanes.CHAT in idle else "."
        yield Finding("lanes", sentence, is_fault=True)
    else:
        yield Finding("lanes", "Every lane has a live worker.")


def check_scheduler() -> Iterator[Finding]:
    """A scheduler runs, and it keeps up."""
    age_s = lane_samples.last_sampled_s()
    overdue = queries.stuck().overdue
    if age_s is None or age_s > SAMPLED_WITHIN_S:
        since = "No scheduler has ever worked here" if age_s is None else f"No scheduler has worked for {_span(age_s)}"
        sentence = f"{since}: nothing becomes due, and nobody takes a dead worker's jobs."
        yield Finding("scheduler", f"{sentence} Run manage.py up, or manage.py scheduler.", is_fault=True)
    elif overdue:
        sentence = f"The scheduler is behind: jobs that were due over 30 s ago and are not queued: {overdue}."
        yield Finding("scheduler", f"{sentence} Its log says why.", is_fault=True)
    else:
        yield Finding("scheduler", "A scheduler works.")


def check_operations() -> Iterator[Finding]:
    """Somebody works on the operations that operators asked for."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), extract(epoch FROM now() - min(created_at))::float,"
            " extract(epoch FROM now() - max(worked_at))::float, coalesce(bool_or(taken_until > now()), false)"
            " FROM jobs_bulkoperation WHERE state IN ('pending', 'running')"
        )
        number, asked_s, worked_s, is_taken = cursor.fetchone()
    idle_s = asked_s if worked_s is None else worked_s
    if not number or is_taken or idle_s <= WORKED_ON_WITHIN_S:
        yield Finding("operations", f"Operations on many tasks under way: {number}.")
        return
    sentence = f"Nobody has worked on the open operations on many tasks ({number}) for {_span(idle_s)}."
    yield Finding("operations", f"{sentence} A scheduler does; its log says why not.", is_fault=True)


def check_holds() -> Iterator[Finding]:
    """Say what may not start now: somebody wanted it so."""
    found = list(Hold.objects.order_by("placed_at")[: HOLDS_SHOWN + 1])
    for hold in found[:HOLDS_SHOWN]:
        why = f": {hold.note}" if hold.note else "."
        sentence = (
            f"{hold.key} is held ({hold.reason}) by {hold.placed_by} since {hold.placed_at:%Y-%m-%d %H:%M} UTC{why}"
        )
        yield Finding("holds", sentence, is_note=True)
    if len(found) > HOLDS_SHOWN:
        yield Finding(
            "holds", f"There are more than these {HOLDS_SHOWN} holds; /console/queues/ shows all.", is_note=True
        )
    if not found:
        yield Finding("holds", "Nothing is held back.")


def check_notices() -> Iterator[Finding]:
    """People are told of requests that wait for them."""
    faults = [mail.fault()] if mail.is_set_up() else []
    faults += [channels.fault(channel) for channel in channels.all_channels()]
    yield from (Finding("notices", fault, is_fault=True) for fault in faults if fault)
    ways = [f"{len(settings.NOTIFY_URLS)} channels"] if settings.NOTIFY_URLS else []
    if not mail.is_set_up():
        if not ways:
            sentence = "Nobody is told that a request waits: neither ASTRA_SMTP_URL nor ASTRA_NOTIFY_URLS is set."
            yield Finding("notices", sentence, is_note=True)
    elif User.objects.filter(is_active=True).exclude(email="").exists():
        ways.insert(0, "mail")
    else:
        sentence = "Nobody is told of requests by mail: no user has a mail address. Give them one in the admin."
        yield Finding("notices", sentence, is_note=True)
    if ways and not any(faults):
        yield Finding("notices", f"People are told of requests by {' and '.join(ways)}.")


def check_approvals() -> Iterator[Finding]:
    """For every rule there are as many people as it wants."""
    rules = registry.current().approvals.rules
    short = False
    for rule in rules:
        for groups, users, wants in ((rule.groups, rule.users, rule.quorum), (_escalation(rule), (), 1)):
            found = script.run(quorum.able(groups, users, limit=wants, not_own=False, requested_by=None))
            if (groups or users) and found < wants:
                short = True
                who = named(groups, users)
                sentence = f"Rule {rule.name} of approvals wants {wants} of {who}, and {found or 'nobody'} can decide."
                yield Finding("approvals", f"{sentence} Add people in Django admin.", is_fault=True)
    if rules and not short:
        yield Finding("approvals", "There are people for every rule of approvals.")


def _escalation(rule: Rule) -> tuple[str, ...]:
    return (rule.escalate_to,) if rule.escalate_to else ()


def check_agents() -> Iterator[Finding]:
    """The configuration is valid, and every model it names has its key."""
    from agents.config import ConfigError, load_config

    try:
        config = load_config(Path(settings.ASTRA_CONFIG))
    except ConfigError as error:
        for fault in error.faults:
            yield Finding("agents", str(fault), is_fault=True)
        return
    yield Finding("agents", f"{settings.ASTRA_CONFIG} is valid and names {len(config.agents)} agents.")
    yield from _check_models(sorted({config.model(name) for name in _models(config)}))


def _check_models(named: list[str]) -> Iterator[Finding]:
    """Every model has its key. Without any key the demo model is meant, on a machine of one's own."""
    from agents.llm import choose

    known = choose.environment()
    try:
        models = [choose.expand(settings.ASTRA_MODEL)] if settings.ASTRA_MODEL else named
    except choose.UnknownModel as error:
        yield Finding("models", f"ASTRA_MODEL: {error}.", is_fault=True)
        return
    is_trial = settings.EMBEDDED_DATABASE and not any(value for name, value in known.items() if name != "ASTRA_MODEL")
    for model in models:
        lacking = choose.missing(model, known)
        if lacking is None:
            yield Finding("models", f"{model} has what it needs.")
        elif settings.ASTRA_MODEL:
            yield Finding("models", f"ASTRA_MODEL is {model}, which needs {lacking}; that is not set.", is_fault=True)
        else:
            sentence = f"{model} needs {lacking}, which is not set: the demo model answers for it."
            yield Finding("models", sentence, is_fault=not is_trial)


def _models(config: Config) -> Iterator[str]:
    for agent in config.agents.values():
        yield agent.model.default
        yield from agent.model.fallback
        if agent.model.downshift:
            yield agent.model.downshift


def _clock(subject: str, ahead_s: float) -> Finding:
    if abs(ahead_s) > SKEW_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        sentence = f"The clock of {subject} is {abs(ahead_s):.1f} s {way} this machine's. Set both by NTP."
        return Finding("clocks", sentence, is_fault=True)
    return Finding("clocks", f"The clock of {subject} agrees with this machine's.")


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
