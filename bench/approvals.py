"""Ten thousand runs that wait for people: what the inbox costs, and what the waiting itself costs.

The inbox is asked for through Django's test client, by everybody for whom it differs, with every filter. The database's
time is measured as in `bench.console_pages`, and no page may take longer than its limit; next to each stands the same
page with thirty requests. Then a worker and a scheduler run beside the ten thousand and beside none: they hold nothing
for a run that waits, so the memory, the processor's time and the transactions of the two must be alike.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import approvals_seed, memory
from bench.approvals_seed import GROUP, NAMED, NOBODY, OPERATOR, REVIEWER
from bench.console_pages import LIMIT_MS, Statements, ask, explain_slow, patience
from bench.console_requests import Page
from bench.stage import Stage
from bench.table import Row

WAITING, FEW = 10_000, 30
RUNS = 5
#: Of waiting beside workers: they come to rest for so long, then are watched for so long. Seconds.
REST_S, WATCH_S = 15.0, 30.0
#: What the ten thousand may add to either process, as a share of what it takes beside none.
MORE_MEMORY = 1.05


class TooMuch(Exception):
    """A limit was passed."""


@dataclass(frozen=True, slots=True)
class Idle:
    """What a worker and a scheduler took while nothing but waiting went on."""

    worker_mb: float
    #: Of the worker: what its memory grew by while it was watched.
    grew_mb: float
    processor_ms: float
    #: Transactions of the whole database, a second.
    transactions: float


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Measure the inbox with many and with few requests, then two processes beside many and beside none."""
    many = WAITING // 10 if quick else WAITING
    runs = stage.rounds(2 if quick else RUNS, quick=False)
    _say(f"writing {many:,} runs that wait …")
    approvals_seed.seed(many, approvals_seed.DECIDED // (10 if quick else 1))
    large = _pages(runs, explain=stage.explain)
    beside_many = _idle(stage, many, quick=quick)
    approvals_seed.seed(FEW, FEW)
    small = _pages(runs)
    stage.clear()
    beside_none = _idle(stage, 0, quick=quick)
    return [*_rows_of_pages(large, small), *_rows_of_idle(beside_many, beside_none, many)]


def pages() -> list[tuple[str, Page]]:
    """Return who asks for what."""
    found = [(who, Page(f"Inbox of {who}", "/approvals/")) for who in (REVIEWER, OPERATOR, NAMED, NOBODY)]
    for words, query in (
        ("all pending", {"tab": "pending"}),
        ("decided", {"tab": "decided"}),
        *((f"{state}", {"state": state}) for state in ("approved", "rejected", "expired", "superseded")),
        ("of an agent", {"agent": "clerk"}),
        ("of a tool", {"tool": "file_bill"}),
        ("of a group", {"group": GROUP}),
        ("unknown effects", {"kind": "effect"}),
        ("of an amount", {"amount": "990"}),
        ("due within the hour", {"due": "1h"}),
        ("due today", {"due": "today"}),
        ("claimed by me", {"claim": "mine"}),
        ("claimed by nobody", {"claim": "free"}),
        ("with a frequent word", {"q": "harbour"}),
        ("with a rare word", {"q": "mill bill"}),
        ("with a word that none has", {"q": "xylophone"}),
        ("all at once", {"q": "mill", "agent": "clerk", "tool": "file_bill", "amount": "10", "claim": "free"}),
        ("decided, of an agent", {"tab": "decided", "agent": "clerk"}),
        ("decided, with a word that none has", {"tab": "decided", "q": "xylophone"}),
    ):
        found += [(who, Page(f"Inbox of {who}, {words}", "/approvals/", query)) for who in (REVIEWER, OPERATOR, NOBODY)]
    found += [(who, Page(f"Inbox of {who}, a page in the middle", "/approvals/", _middle())) for who in (REVIEWER,)]
    found += [(who, Page(f"Any page, with the number, of {who}", "/accounts/tokens/")) for who in (REVIEWER, NOBODY)]
    return [*found, (OPERATOR, Page("Overview", "/console/"))]


def _middle() -> dict[str, str]:
    from agents.queries import encode
    from approvals.models import Approval

    pending = Approval.objects.pending().order_by("sort_at", "pk")
    at = pending.values_list("sort_at", "pk")[pending.count() // 2]
    return {"tab": "pending", "cursor": encode(f"{at[0].isoformat()} {at[1]}")}


def _pages(runs: int, *, explain: bool = False) -> dict[str, list[Statements]]:
    from django.contrib.auth.models import User
    from django.test import Client

    clients: dict[str, Any] = {}
    for who in (REVIEWER, OPERATOR, NAMED, NOBODY):
        clients[who] = Client(raise_request_exception=False, headers={"host": "localhost"})
        clients[who].force_login(User.objects.get(username=who))
    found: dict[str, list[Statements]] = {}
    with patience():
        for who, page in pages():
            ask(clients[who], page)
            found[page.name] = [ask(clients[who], page) for _ in range(runs)]
            took = _ms(found[page.name])
            _say(f"{took:7.1f} ms for {_number(found[page.name]):2} statements: {page.name}")
            if explain and took > LIMIT_MS / 4:
                explain_slow(found[page.name][-1])
    return found


def _ms(found: list[Statements]) -> float:
    return statistics.median(each.ms for each in found)


def _number(found: list[Statements]) -> int:
    """Return how many statements a page needs: now and then one looks, besides, whether a configuration was loaded."""
    return min(len(each.took) for each in found)


def _rows_of_pages(large: dict[str, list[Statements]], small: dict[str, list[Statements]]) -> Iterator[Row]:
    for name, found in large.items():
        many, few = _number(found), _number(small[name])
        if many > few:  # on a busy machine counting is given up now and then, a statement earlier
            raise TooMuch(f"{name}: {many} statements with many requests, {few} with few")
    slowest = sorted(large, key=lambda name: _ms(large[name]), reverse=True)
    if (took := _ms(large[slowest[0]])) > LIMIT_MS:
        raise TooMuch(f"{slowest[0]}: {took:.0f} ms of the database, over {LIMIT_MS:.0f}")
    for name in (f"Inbox of {REVIEWER}", f"Inbox of {OPERATOR}, all pending", slowest[0]):
        words = f"{name}: {_number(large[name])} statements"
        times = [each.ms for each in large[name]]
        yield Row(words, "ms", f"{FEW} requests", times, [each.ms for each in small[name]], more_is_better=False)
    times = [each.ms for each in large[slowest[0]]]
    words = f"The slowest of {len(large)} pages: {slowest[0]}"
    yield Row(words, "ms", "the limit", times, [LIMIT_MS] * len(times), more_is_better=False)


def _idle(stage: Stage, waiting: int, *, quick: bool) -> Idle:
    """Watch a worker and a scheduler at rest."""
    from django.db import connection

    rest, watch = (5.0, 8.0) if quick else (REST_S, WATCH_S)
    with stage.process(stage.manage("scheduler")), stage.process(stage.manage("worker", "--lane", "queue:16")) as child:
        stage.until_workers(1)
        time.sleep(rest)
        connection.close()  # it tells its figures when it goes
        worker, processor, done = memory.of_tree(child.pid), _processor_s(child.pid), _transactions(stage)
        began = time.monotonic()
        time.sleep(watch)
        after = memory.of_tree(child.pid)
        seconds = time.monotonic() - began
        found = Idle(
            worker_mb=after / 1e6,
            grew_mb=(after - worker) / 1e6,
            processor_ms=(_processor_s(child.pid) - processor) * 1000 / seconds,
            transactions=(_transactions(stage) - done) / seconds,
        )
    changed = stage.column("SELECT count(*) FROM jobs_job WHERE state <> 'waiting'")[0]
    events = stage.column("SELECT count(*) FROM jobs_jobevent")[0]
    if changed or events:
        raise TooMuch(f"{changed} of {waiting} runs do not wait any more, and {events} events were written")
    _say(f"beside {waiting:,} runs that wait: {found}")
    return found


def _rows_of_idle(many: Idle, none: Idle, number: int) -> Iterator[Row]:
    if many.worker_mb > none.worker_mb * MORE_MEMORY:
        raise TooMuch(
            f"a worker takes {many.worker_mb:.1f} MB beside {number:,} runs, {none.worker_mb:.1f} MB beside none"
        )
    for words, unit, name in (
        ("memory", "MB", "worker_mb"),
        ("processor", "ms/s", "processor_ms"),
        ("transactions of all", "/s", "transactions"),
    ):
        values = [getattr(many, name)], [getattr(none, name)]
        yield Row(f"An idle worker beside {number:,} runs that wait, {words}", unit, "beside none", *values, False)


def _transactions(stage: Stage) -> float:
    return stage.column("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")[0]


def _processor_s(pid: int) -> float:
    """Return the processor's time of a process, its threads and the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from bench.__main__ import main

    main("approvals")
