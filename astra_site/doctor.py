"""What may be wrong with this installation, found by trying: one check per subject."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from django.conf import settings
from django.db import connection

from astra_site import health, reach, schema
from jobs import lanes

if TYPE_CHECKING:
    from agents.config import Config

OLDEST_POSTGRES = 14
OLDEST_REDIS = 7
# A lease holds for six seconds in the database's time; schedules and tokens go by each machine's own.
SKEW_S = 1.0


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: a sentence, and whether it is a fault."""

    subject: str
    sentence: str
    is_fault: bool = False


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
    yield _clock("database", float(moment) - began - took / 2)


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
    yield _clock("redis", seconds + micros / 1e6 - began - took / 2)


def check_migrations() -> Iterator[Finding]:
    """The database has every migration; if so, every lane has a live worker."""
    if missing := schema.missing():
        names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        sentence = f"The database lacks {len(missing)} migrations ({names}). Run manage.py migrate."
        yield Finding("migrations", sentence, is_fault=True)
    else:
        yield Finding("migrations", "The database has every migration.")
        yield from check_lanes()


def check_lanes() -> Iterator[Finding]:
    """Every lane has a live worker."""
    if idle := health.idle_lanes():
        sentence = f"No worker serves {', '.join(idle)}. Run manage.py up, or manage.py worker for these lanes"
        sentence += " (manage.py web for chat)." if lanes.CHAT in idle else "."
        yield Finding("lanes", sentence, is_fault=True)
    else:
        yield Finding("lanes", "Every lane has a live worker.")


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
        sentence = f"The clock of the {subject} is {abs(ahead_s):.1f} s {way} this machine's. Set both by NTP."
        return Finding("clocks", sentence, is_fault=True)
    return Finding("clocks", f"The clock of the {subject} agrees with this machine's.")
