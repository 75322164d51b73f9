from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from jobs import handlers, sweeps
from jobs.handlers import Outcome, Transition
from jobs.pool import conninfo
from jobs.script import Script
from tests.jobs.drive import Clock
from tests.support.connections import let_go


@pytest.fixture(autouse=True)
def _database(transactional_db: None) -> None:
    """Jobs are seen by other connections and processes: nothing here is rolled back at the end of a test."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the test registers is swept besides our own."""
    monkeypatch.setattr(sweeps, "_sweeps", {})


@pytest.fixture
def outage() -> Iterator[Callable[[], None]]:
    """A function that breaks every connection to the database, as a restart of PostgreSQL does.

    The pool is begun anew before and after, so that it holds one connection and no broken one.
    """

    def kill() -> None:
        with psycopg.connect(conninfo(), autocommit=True) as own:
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    let_go()
    yield kill
    let_go()


@pytest.fixture
def refusing() -> str:
    """A handler that refuses every change of a job whose payload says so."""

    async def never(claim: handlers.Claim) -> Outcome:
        raise NotImplementedError

    def refuse(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        if change.payload.get("refuse"):
            raise RuntimeError("refused")

    handlers.register_function("test.choosy", never, on_transition=refuse)
    return "test.choosy"
