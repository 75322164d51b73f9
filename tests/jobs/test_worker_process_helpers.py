"""What goes on beside the runs in a worker process, and before them: one failure must not end it for good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from django.conf import settings
from django.db import connection

from jobs import handlers
from jobs.handlers import Transition, register_function
from jobs.heartbeat import Heartbeat
from jobs.host import Host
from jobs.pool import close_pool
from jobs.process import hooks
from jobs.script import Script
from jobs.states import State
from jobs.suspects import SuspectServer
from tests.jobs.drive import pass_time, state, submitted, taken, worker
from tests.support.handlers import noop

PATIENCE_S = 30


async def _in_thread(call: Callable[..., Any], *args: Any) -> Any:
    def run() -> Any:
        try:
            return call(*args)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


def _refuse(change: Transition) -> Script[None]:
    yield "SELECT 1 / 0", []


@pytest.fixture
def refusing() -> Iterator[str]:
    """A handler whose part of a transition always fails."""
    register_function("test.refuses", noop, on_transition=_refuse)
    yield "test.refuses"
    del handlers._handlers["test.refuses"]


@pytest_asyncio.fixture
async def host(transactional_db: None) -> AsyncIterator[Host]:
    """A process that has a worker's row and runs nothing."""
    host = Host({"queue": 4})
    heartbeat = host.heartbeat = Heartbeat(
        asyncio.get_running_loop(),
        host.slots,
        hooks.version,
        capabilities=tuple,
        on_stop=host.runner.cancel,
        on_lost=host.runner.lose,
    )
    heartbeat.worker_id = await _in_thread(worker, "queue")
    yield host
    await close_pool()


async def test_one_orphan_that_cannot_be_handed_back_does_not_keep_the_others(host: Host, refusing: str) -> None:
    mine = host.worker_id

    def orphans() -> list[UUID]:
        register_function(refusing, noop)
        broken, sound = submitted(refusing), submitted()
        for _ in range(2):
            taken(mine)
        register_function(refusing, noop, on_transition=_refuse)
        pass_time(7)
        return [broken, sound]

    broken, sound = await _in_thread(orphans)
    await host.hand_back_orphans()
    assert (await _in_thread(state, sound), await _in_thread(state, broken)) == (State.QUEUED, State.RUNNING)


async def test_a_suspects_server_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "BASE_DIR", tmp_path / "not-there")
    server = SuspectServer(1, 0.1)
    keeping = asyncio.create_task(server.keep_alive())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while "suspects' server does not start" not in caplog.text:
                assert not keeping.done(), "nobody serves the lane any more"
                await asyncio.sleep(0.01)
            monkeypatch.undo()
            while server._processes == [None]:
                await asyncio.sleep(0.01)
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await keeping
        await server.stop()


def test_a_worker_that_starts_before_the_database_waits_for_it_and_can_be_stopped() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://astra@127.0.0.1:{nobody.getsockname()[1]}/astra"
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "worker", "--lane", "queue:1"],
            cwd=settings.BASE_DIR,
            env=os.environ | {"DATABASE_URL": url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert worker.stderr is not None
        try:
            said = next((line for line in worker.stderr if "database_outage" in line), "")
            assert "the database does not answer" in said, "it gave up"
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0
            assert "Traceback" not in worker.stderr.read()
        finally:
            worker.kill()
            worker.communicate()
