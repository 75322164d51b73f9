"""What the console's pages cost in a house of a million tasks: how many statements, and the database's time for them.

Each page is asked for through Django's test client, as an operator who is an admin. The database's time is the
processor's time of the connection's process: all it reads is in memory, and what else the machine does does not count.
Where the system does not tell it, it is the time from each statement's call to its last row. No page may take longer
than `LIMIT_MS`. Next to each stands the same page in a house of a thousand tasks; and once more all pages, before any
statistics were gathered, as after a backup was restored.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import console_seed
from bench.console_requests import Page, pages
from bench.stage import Stage
from bench.table import Row

MANY, FEW = 1_000_000, 1_000
#: Of the database's time, for one page.
LIMIT_MS = 100.0
#: So many warm requests of each page are measured.
RUNS = 5
#: The site's own time-outs are shorter; a page that hits this one is reported as such.
GIVEN_UP_MS = 20_000
#: A page that takes less has no row of its own in the table: all are told while they are measured.
TOLD_FROM_MS = 10.0
#: So many statements are explained of each page over the limit.
EXPLAINED = 2


class BadAnswer(Exception):
    """A page did not answer as it should, so what was timed is not the page."""


@dataclass(slots=True)
class Statements:
    """What was asked of the database, and how long each took."""

    took: list[tuple[float, str, Any]] = field(default_factory=list)
    #: The processor's time in PostgreSQL, milliseconds; None where the system does not say.
    processor_ms: float | None = None

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self.took.append(((time.perf_counter() - began) * 1000, sql, params))

    @property
    def waited_ms(self) -> float:
        """How long they were waited for, all together."""
        return sum(took for took, _, _ in self.took)

    @property
    def ms(self) -> float:
        """The database's time."""
        return self.waited_ms if self.processor_ms is None else self.processor_ms


#: Of each page by its name, the requests.
Measured = dict[str, list[Statements]]


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Measure all pages with many tasks, before and after statistics were gathered, then with few."""
    many, runs = (MANY // 50, 2) if quick else (MANY, stage.rounds(RUNS, quick=False))
    _say(f"writing {many:,} tasks …")
    console_seed.seed(many)
    fresh = _all(2)
    console_seed.analyse()
    large = _all(runs, explain=stage.explain)
    console_seed.seed(FEW)
    console_seed.analyse()
    small = _all(runs)
    return list(_rows(large, small, fresh, many))


def _rows(large: Measured, small: Measured, fresh: Measured, many: int) -> Iterator[Row]:
    others: Measured = {}
    for name, found in large.items():
        number, few = len(found[-1].took), len(small[name][-1].took)
        if number != few:
            _say(f"{name}: {number} statements with {many:,} tasks, {few} with {FEW:,}")
        if statistics.median(_ms(found)) < TOLD_FROM_MS:
            others[name] = found
            continue
        words = f"{name}: {number} statement{'' if number == 1 else 's'}"
        yield Row(words, "ms", f"{FEW:,} tasks", _ms(found), _ms(small[name]), more_is_better=False)
    if others:
        slowest = _slowest(others)
        words = f"The slowest of {len(others)} other pages: {slowest}"
        yield Row(words, "ms", f"{FEW:,} tasks", _ms(others[slowest]), _ms(small[slowest]), more_is_better=False)
    for what, measured in (("", large), (" before statistics are gathered", fresh)):
        times = _ms(measured[_slowest(measured)])
        words = f"The slowest of {len(measured)} pages{what}: {_slowest(measured)}"
        yield Row(words, "ms", "the limit", times, [LIMIT_MS] * len(times), more_is_better=False)
        over = [name for name in measured if statistics.median(_ms(measured[name])) > LIMIT_MS]
        _say(f"over {LIMIT_MS:.0f} ms{what}: {'; '.join(over) or 'none'}")


def _slowest(measured: Measured) -> str:
    return max(measured, key=lambda name: statistics.median(_ms(measured[name])))


def _ms(found: Sequence[Statements]) -> list[float]:
    return [each.ms for each in found]


def _all(runs: int, *, explain: bool = False) -> Measured:
    """Ask for every page, once to warm up and then ``runs`` times."""
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client(raise_request_exception=False, headers={"host": "localhost"})
    client.force_login(User.objects.get(username=console_seed.OPERATOR))
    found: Measured = {}
    with patience():
        for page in pages():
            ask(client, page)
            found[page.name] = [ask(client, page) for _ in range(runs)]
            took = statistics.median(_ms(found[page.name]))
            waited = statistics.median(each.waited_ms for each in found[page.name])
            number = len(found[page.name][-1].took)
            _say(f"{took:7.1f} ms, waited {waited:7.1f} ms for {number:2} statements: {page.name}")
            if explain and took > LIMIT_MS:
                explain_slow(found[page.name][-1])
    return found


def ask(client: Any, page: Page) -> Statements:
    from django.db import connection

    seen = Statements()
    began = _processor_ms()
    with connection.execute_wrapper(seen):
        response = client.get(page.path, page.query)
        for _ in response:  # what is streamed is asked for on the way
            pass
    ended = _processor_ms()
    seen.processor_ms = ended - began if began is not None and ended is not None else None
    if response.status_code != page.status:
        raise BadAnswer(f"{page.name} ({page.path} {page.query}) answered {response.status_code}")
    return seen


def _processor_ms() -> float | None:
    """Return the processor time that our connection's backend has used so far, as far as Linux tells it."""
    from django.db import connection

    connection.ensure_connection()
    try:
        return int(Path(f"/proc/{connection.connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e6
    except (OSError, ValueError):
        return None


@contextmanager
def patience() -> Iterator[None]:
    """Give up what takes very long: the page then fails, and the benchmark with it."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {GIVEN_UP_MS}")
        cursor.execute("SET max_parallel_workers_per_gather = 0")  # their time would be missing
        try:
            yield
        finally:
            cursor.execute("RESET statement_timeout")
            cursor.execute("RESET max_parallel_workers_per_gather")


def explain_slow(seen: Statements) -> None:
    """Print the slowest statements of a page, each with its plan."""
    from django.db import connection

    for took, sql, params in sorted(seen.took, key=lambda each: each[0], reverse=True)[:EXPLAINED]:
        _say(f"\n--- {took:.1f} ms\n{sql}\n--- {params}")
        if sql.lstrip().upper().startswith(("SELECT", "WITH", "(")):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", params)
                _say("\n".join(line for (line,) in cursor.fetchall()))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from bench.__main__ import main

    main("console_pages")
