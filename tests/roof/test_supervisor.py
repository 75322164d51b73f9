"""The supervisor: children that die are started again, later each time; children that are told to stop are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_site import readiness, sessions
from astra_site.parent import PIPE
from astra_site.supervisor import FIRST_S, MOST_S, STEADY_S, Backoff, Child, Signals, Supervisor, how
from tests.support.processes import eventually

DEADLINE_S = 30.0
until = partial(eventually, within_s=DEADLINE_S)
FOREVER = "import time; print('up', flush=True); time.sleep(600)"
LEAVES_A_PROCESS = "import os, time; os.fork() or os.setpgrp(); time.sleep(600)"
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(UP).touch()
time.sleep(600)
"""
SAYS_WHEN_READY = """
import os, pathlib, signal, sys, time
from astra_site import readiness
folder = pathlib.Path(FOLDER)
if (folder / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if (folder / "broken").exists():
    sys.exit(1)
(folder / "up").touch()
while not (folder / "ready").exists():
    time.sleep(0.01)
readiness.tell(os.environ)
time.sleep(600)
"""
PARENT = """
import sys, time
from astra_site.supervisor import Child, Supervisor
child = [sys.executable, "-c", sys.argv[1]]
supervisor = Supervisor([Child("child", child)], say=print, on_death=print)
supervisor.step()
print(supervisor.children[0].process.pid, flush=True)
time.sleep(600)
"""
FOLLOWER = """
import os, time
from astra_site import parent
parent.follow(os.environ)
time.sleep(600)
"""


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A supervisor, what it said, and whose death it announced."""

    def __init__(self, *programs: str, reports: bool = False) -> None:
        self.clock = Clock()
        self.said: list[str] = []
        self.dead: list[int] = []
        self.supervisor = Supervisor(
            [
                Child(f"child {number}", [sys.executable, "-c", code], reports=reports)
                for number, code in enumerate(programs)
            ],
            say=self.said.append,
            on_death=self.dead.append,
            clock=self.clock,
        )

    def process(self, number: int = 0) -> subprocess.Popen[bytes]:
        process = self.supervisor.children[number].process
        assert process is not None
        return process

    def step_until(self, condition: Callable[[], bool]) -> None:
        until(lambda: (self.supervisor.step(), condition())[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    """Stages that are cleared away after the test, whatever happened."""
    made: list[Stage] = []
    yield made
    for stage in made:
        stage.supervisor.kill()


@given(runs=st.lists(st.floats(min_value=0, max_value=10 * STEADY_S), max_size=30))
def test_the_wait_doubles_to_half_a_minute_and_is_a_second_again_after_a_steady_run(runs: list[float]) -> None:
    backoff, expected = Backoff(), FIRST_S
    for ran_s in runs:
        if ran_s >= STEADY_S:
            expected = FIRST_S
        assert backoff.after(ran_s) == expected
        expected = min(2 * expected, MOST_S)


def test_a_child_that_dies_is_said_announced_and_started_again_after_the_wait(stages: list[Stage]) -> None:
    stages.append(stage := Stage(FOREVER))
    stage.supervisor.step()
    first = stage.process()
    first.kill()
    stage.step_until(lambda: bool(stage.dead))
    assert stage.dead == [first.pid]
    assert stage.said == ["The child 0 was killed by SIGKILL. It starts again in 1 s."]
    assert not stage.supervisor.children[0].is_running
    stage.clock.now += 0.9
    assert stage.supervisor.step() == pytest.approx(0.1)
    assert not stage.supervisor.children[0].is_running
    stage.clock.now += 0.2
    stage.supervisor.step()
    assert stage.process().pid != first.pid
    assert is_alive(stage.process().pid)


def test_a_child_that_dies_at_once_is_started_less_and_less_often(stages: list[Stage]) -> None:
    stages.append(stage := Stage("raise SystemExit(3)"))
    for _ in range(3):
        stage.supervisor.step()
        stage.step_until(lambda: not stage.supervisor.children[0].is_running)
        stage.clock.now += MOST_S
    assert stage.said == [f"The child 0 ended with status 3. It starts again in {wait} s." for wait in (1, 2, 4)]


def test_the_death_of_one_child_leaves_the_others_alone(stages: list[Stage]) -> None:
    stages.append(stage := Stage(FOREVER, FOREVER))
    stage.supervisor.step()
    other = stage.process(1)
    stage.process(0).kill()
    stage.step_until(lambda: bool(stage.dead))
    assert other.poll() is None
    assert stage.process(1) is other


def test_stopping_ends_all_children_and_what_they_left_behind(stages: list[Stage]) -> None:
    stages.append(stage := Stage(FOREVER, LEAVES_A_PROCESS))
    stage.supervisor.step()
    session = stage.process(1).pid
    until(lambda: len(sessions.members(session)) == 2)
    stage.supervisor.stop(DEADLINE_S)
    assert sessions.members(session) == []
    assert stage.said == []
    assert not any(child.is_running for child in stage.supervisor.children)


def test_what_a_dead_child_left_behind_is_asked_to_end(stages: list[Stage]) -> None:
    stages.append(stage := Stage(LEAVES_A_PROCESS))
    stage.supervisor.step()
    session = stage.process().pid
    until(lambda: len(sessions.members(session)) == 2)
    stage.process().kill()
    stage.step_until(lambda: bool(stage.dead))
    until(lambda: sessions.members(session) == [])


def test_what_a_dead_child_left_behind_is_killed_in_the_end_if_it_does_not_listen(stages: list[Stage]) -> None:
    stages.append(stage := Stage(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {LEAVES_A_PROCESS}"))
    stage.supervisor.step()
    session = stage.process().pid
    until(lambda: len(sessions.members(session)) == 2)
    stage.process().kill()
    stage.step_until(lambda: bool(stage.dead))
    assert len(sessions.members(session)) == 1
    stage.supervisor.stop(0.1)
    assert sessions.members(session) == []


def test_a_child_that_does_not_stop_in_time_is_killed_and_said_so(stages: list[Stage], tmp_path: Path) -> None:
    stages.append(stage := Stage(STUBBORN.replace("UP", repr(str(tmp_path / "up")))))
    stage.supervisor.step()
    pid = stage.process().pid
    until((tmp_path / "up").exists)
    stage.supervisor.stop(0.1)
    assert stage.said == ["The child 0 does not stop in time; it is killed."]
    assert not is_alive(pid)


def test_a_second_request_to_stop_is_a_hurry(stages: list[Stage], tmp_path: Path) -> None:
    stages.append(stage := Stage(STUBBORN.replace("UP", repr(str(tmp_path / "up")))))
    stage.supervisor.step()
    until((tmp_path / "up").exists)
    began = time.monotonic()
    stage.supervisor.stop(600, is_hurried=lambda: True)
    assert time.monotonic() - began < DEADLINE_S


class Renewal(Stage):
    """A stage whose children say that they are ready once the folder has a file of that name."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(*[SAYS_WHEN_READY.replace("FOLDER", repr(str(folder)))] * count, reports=True)
        self.supervisor.step()
        until((folder / "up").exists)
        self.first = [self.process(number) for number in range(count)]

    def alive(self) -> list[bool]:
        return [process.poll() is None for process in self.first]


def test_children_are_renewed_one_after_the_other_and_none_leaves_before_its_successor_is_ready(
    stages: list[Stage], tmp_path: Path
) -> None:
    stages.append(stage := Renewal(tmp_path, 2))
    stage.supervisor.renew()
    stage.supervisor.renew()
    stage.step_until(lambda: len(stage.supervisor.children) == 3)
    assert stage.supervisor.step() < 1
    assert (stage.alive(), stage.said) == ([True, True], [])
    (tmp_path / "ready").touch()
    stage.step_until(lambda: stage.dead == [stage.first[0].pid])
    assert stage.alive() == [False, True]
    stage.step_until(lambda: len(stage.said) == 2)
    assert stage.said == ["The child 0 was renewed.", "The child 1 was renewed."]
    assert stage.dead == [process.pid for process in stage.first]
    assert [child.name for child in stage.supervisor.children] == ["child 0", "child 1"]
    assert all(is_alive(stage.process(number).pid) for number in range(2))
    assert stage.supervisor.step() > 1


def test_a_successor_that_does_not_come_up_leaves_its_predecessor_at_work(stages: list[Stage], tmp_path: Path) -> None:
    stages.append(stage := Renewal(tmp_path, 1))
    (tmp_path / "broken").touch()
    stage.supervisor.renew()
    stage.step_until(lambda: bool(stage.said))
    assert stage.said == ["The child 0 ended with status 1. It starts again in 1 s."]
    assert stage.alive() == [True]
    (tmp_path / "broken").unlink()
    (tmp_path / "ready").touch()
    stage.clock.now += 1
    stage.step_until(lambda: len(stage.said) == 2)
    assert (stage.said[1], stage.alive()) == ("The child 0 was renewed.", [False])


def test_a_predecessor_that_dies_is_not_started_again_beside_its_successor(stages: list[Stage], tmp_path: Path) -> None:
    stages.append(stage := Renewal(tmp_path, 1))
    stage.supervisor.renew()
    stage.step_until(lambda: len(stage.supervisor.children) == 2)
    stage.first[0].kill()
    stage.step_until(lambda: bool(stage.dead))
    assert stage.said == ["The child 0 was killed by SIGKILL. Its successor is being started."]
    (tmp_path / "ready").touch()
    stage.step_until(lambda: len(stage.said) == 2)
    assert len(stage.supervisor.children) == 1


def test_a_predecessor_that_does_not_leave_is_killed(stages: list[Stage], tmp_path: Path) -> None:
    (tmp_path / "stubborn").touch()
    stages.append(stage := Renewal(tmp_path, 1))
    (tmp_path / "ready").touch()
    stage.supervisor.renew()
    stage.step_until(lambda: any(child.leaves_by is not None for child in stage.supervisor.children))
    assert stage.alive() == [True]
    stage.clock.now += 2 * MOST_S
    stage.step_until(lambda: len(stage.said) == 2)
    assert stage.said == ["The child 0 does not stop in time; it is killed.", "The child 0 was renewed."]


def test_a_stop_amid_a_renewal_stops_both(stages: list[Stage], tmp_path: Path) -> None:
    stages.append(stage := Renewal(tmp_path, 1))
    stage.supervisor.renew()
    stage.step_until(lambda: len(stage.supervisor.children) == 2)
    pids = [stage.process(number).pid for number in range(2)]
    stage.supervisor.stop(DEADLINE_S)
    assert not any(is_alive(pid) for pid in pids)
    assert stage.said == []


def test_children_that_do_not_say_when_they_are_ready_are_not_renewed(stages: list[Stage]) -> None:
    stages.append(stage := Stage(FOREVER))
    stage.supervisor.step()
    stage.supervisor.renew()
    stage.supervisor.step()
    assert len(stage.supervisor.children) == 1


def test_nobody_is_told_who_did_not_ask() -> None:
    environment = {"HOME": "/"}
    readiness.tell(environment)
    told = readiness.Readiness()
    assert not told.is_there()
    readiness.tell(environment | told.environment())
    assert told.is_there()
    left = readiness.Readiness()
    left.begin()
    assert not left.is_there()
    assert not left.is_there()


def test_children_end_when_their_supervisor_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, FOLLOWER], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert is_alive(child)
        # The child has to have begun to follow, which its environment in /proc cannot tell: its threads can.
        until(lambda: len(list(Path(f"/proc/{child}/task").iterdir())) > 1)
        parent.kill()
        until(lambda: not is_alive(child))


def test_a_process_without_a_leash_follows_nobody() -> None:
    from astra_site import parent

    environment = {"HOME": "/"}
    parent.follow(environment)
    assert environment == {"HOME": "/"}
    assert PIPE not in os.environ


def test_the_loop_wakes_at_once_when_a_child_ends_or_someone_asks_to_stop() -> None:
    handlers = [signal.getsignal(number) for number in (*Signals.STOPS, signal.SIGCHLD)]
    with Signals() as signals:
        began = time.monotonic()
        with subprocess.Popen(["true"]):
            signals.wait(DEADLINE_S)
        asked = [signals.asked]
        os.kill(os.getpid(), signal.SIGTERM)
        signals.wait(DEADLINE_S)
        assert [*asked, signals.asked] == [0, 1]
        assert time.monotonic() - began < DEADLINE_S
    assert [signal.getsignal(number) for number in (*Signals.STOPS, signal.SIGCHLD)] == handlers


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended with status 0"), (-9, "was killed by SIGKILL"), (-250, "was killed by signal 250")],
)
def test_how_a_process_ended_is_said_in_words(status: int, words: str) -> None:
    assert how(status) == words
