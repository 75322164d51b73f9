"""What a worker that is killed leaves behind, and who takes it up. Real processes, killed by SIGKILL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deaths import DIE_AT
from tests.support.history import Tracked, track
from tests.support.processes import Processes, database_for_a_module, eventually, wait_until_ready

LANES = ("queue", "scheduled", "batch", "tools", "delivery", "evals")
#: Each boundary, and the fences under which the job is claimed when its first worker dies there.
BOUNDARIES = {
    "after pop": [1],
    "in claim": [1],
    "after claim": [1, 2],
    "in step": [1, 2],
    "between steps": [1, 2],
    "after last step": [1, 2],
    "before finish": [1, 2],
    "in finish": [1, 2],
    "after finish": [1],
}
OUTSIDE = "from outside"


_module_database, transactional_db, _database = database_for_a_module()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@dataclass(frozen=True, slots=True)
class Death:
    """A job whose first worker died."""

    job: Tracked
    victim: int


@pytest.fixture(scope="module")
def deaths(_module_database: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Death]:
    """One worker killed at each boundary and one in mid-run, and other workers that run their jobs to the end."""
    folder = tmp_path_factory.mktemp("deaths")
    gate = folder / "gate"
    with Processes() as processes:
        processes.scheduler()
        processes.worker("suspect:3")
        found: dict[str, Death] = {}
        # Each victim takes the one job of its lane. The first two jobs stay in theirs, so these are not used again.
        _kill_at(list(BOUNDARIES)[:6], LANES, processes, folder, found)
        _kill_at(list(BOUNDARIES)[6:], LANES[2:], processes, folder, found)
        victim = processes.ready_worker(f"{LANES[-1]}:2")
        payload = {"steps": 3, "gate": 3, "until": str(gate)}
        job = track("steps", folder / "outside", lane=LANES[-1], payload=payload)
        eventually(job.has_written("step-3"), within_s=10)
        victim.kill()
        found[OUTSIDE] = Death(job, victim.pid)
        gate.touch()
        processes.worker(*(f"{lane}:2" for lane in LANES[:2]))
        for death in found.values():
            eventually(death.job.is_in("succeeded", "dead"), within_s=30)
    return found


def _kill_at(
    boundaries: list[str], lanes: Sequence[str], processes: Processes, folder: Path, found: dict[str, Death]
) -> None:
    victims = {
        where: (processes.worker(f"{lane}:2", environment={DIE_AT: where}), lane)
        for where, lane in zip(boundaries, lanes, strict=False)
    }
    wait_until_ready(*(victim for victim, _ in victims.values()))
    for where, (victim, lane) in victims.items():
        job = track("steps", folder / where.replace(" ", "-"), lane=lane, payload={"steps": 3})
        victim.ends_within(10)
        found[where] = Death(job, victim.pid)


@pytest.mark.parametrize("where", [*BOUNDARIES, OUTSIDE])
def test_a_job_whose_worker_is_killed_ends_well_and_is_not_charged(where: str, deaths: dict[str, Death]) -> None:
    job = deaths[where].job
    row = job.row()
    assert (row.state, row.attempt, row.crashes) == ("succeeded", 0, 0)
    assert job.changes().count("finished") == 1


@pytest.mark.parametrize("where", [*BOUNDARIES, OUTSIDE])
def test_no_finished_step_runs_again(where: str, deaths: dict[str, Death]) -> None:
    job = deaths[where].job
    assert job.recorded() == [1, 2, 3]
    # A step that was cut off in its middle has not finished.
    unfinished = {"in step": "step-2", OUTSIDE: "step-3"}.get(where)
    assert Counter(job.words()) == {word: 2 if word == unfinished else 1 for word in ("step-1", "step-2", "step-3")}


@pytest.mark.parametrize("where", BOUNDARIES)
def test_only_a_claim_that_was_committed_counts_as_one(where: str, deaths: dict[str, Death]) -> None:
    claims = deaths[where].job.events("claimed")
    assert [claim.fence for claim in claims] == BOUNDARIES[where]


@pytest.mark.parametrize("where", [where for where in (*BOUNDARIES, OUTSIDE) if where != "after finish"])
def test_it_goes_on_in_another_process(where: str, deaths: dict[str, Death]) -> None:
    death = deaths[where]
    assert death.job.row().lane == ("suspect" if BOUNDARIES.get(where) != [1] else death.job.row().home_lane)
    workers = {claim.worker_id for claim in death.job.events("claimed")}
    assert len(workers) == len(death.job.events("claimed"))
    if where == OUTSIDE:
        assert death.job.lines()[-1].pid != death.victim


def test_a_poison_job_dies_alone_after_three_crashes_of_its_own(processes: Processes, tmp_path: Path) -> None:
    processes.scheduler()
    victim = processes.worker("tools:8")
    survivor = processes.worker("suspect:2")
    wait_until_ready(victim, survivor)
    neighbours = [
        track("slow", tmp_path / "log", lane="tools", payload={"until": str(tmp_path / "gate")}) for _ in range(5)
    ]
    for neighbour in neighbours:
        eventually(neighbour.has_written("began"), within_s=10)

    poison = track("poison", tmp_path / "log", lane="tools")
    victim.ends_within(10)
    (tmp_path / "gate").touch()

    eventually(poison.is_in("dead"), within_s=30)
    assert poison.words() == ["poison"] * 4  # once among its neighbours, uncharged, then three times alone
    assert len({line.pid for line in poison.lines()}) == 4
    row = poison.row()
    assert (row.attempt, row.crashes) == (0, 3)
    assert row.error is not None
    assert row.error["type"] == "/problems/worker-died"
    for neighbour in neighbours:
        eventually(neighbour.is_in("succeeded", "dead"), within_s=10)
        row = neighbour.row()
        assert (row.state, row.attempt, row.crashes) == ("succeeded", 0, 0)
        assert neighbour.words() == ["began", "began", "ended"]
    assert survivor.is_alive


def test_a_suspect_whose_worker_is_killed_from_outside_is_handed_back_and_no_process_stays(
    processes: Processes, tmp_path: Path
) -> None:
    processes.scheduler()
    victim = processes.ready_worker("suspect:1", grace=1)
    gate = tmp_path / "gate"
    job = track("slow", tmp_path / "log", lane="suspect", payload={"until": str(gate)})
    eventually(job.has_written("began"), within_s=10)
    assert len(victim.others()) == 2  # the server, and the process it forked

    victim.kill()
    eventually(lambda: not victim.others(), within_s=6)
    assert job.words() == ["began", "cut-off"]
    assert job.row().state == "queued"

    gate.touch()
    processes.worker("suspect:1")
    eventually(job.is_in("succeeded"), within_s=10)
    assert (job.row().attempt, job.row().crashes) == (0, 0)


def test_a_suspects_server_that_is_killed_takes_its_process_along_and_is_begun_again(
    processes: Processes, tmp_path: Path
) -> None:
    worker = processes.ready_worker("suspect:1", grace=1)
    gate = tmp_path / "gate"
    job = track("slow", tmp_path / "log", lane="suspect", payload={"until": str(gate)})
    eventually(job.has_written("began"), within_s=10)
    (forked,) = {line.pid for line in job.lines()}
    (server,) = set(worker.others()) - {forked}

    processes.kill_pid(server)
    eventually(lambda: forked not in worker.others(), within_s=6)

    gate.touch()
    eventually(job.is_in("succeeded"), within_s=10)
    assert (job.row().attempt, job.row().crashes) == (0, 0)
    assert worker.is_alive
