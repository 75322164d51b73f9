"""The embedded servers: any path, any kill, several users at once."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from astra_site import embedded
from astra_site.embedded.layout import NOBODY, Layout
from tests.support.processes import eventually

HOLD = """
import sys
from pathlib import Path
from astra_site import embedded
with embedded.servers(Path(sys.argv[1]), durable=False):
    print("up", flush=True)
    sys.stdin.read()
"""
DEADLINE_S = 60.0
until = partial(eventually, within_s=DEADLINE_S)
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="Only root steps into another user.")


class User:
    """Another process that holds the servers until it is told to leave."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def wait_until_up(self) -> None:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], DEADLINE_S)[0]
        assert self.process.stdout.readline() == b"up\n"

    def leave(self) -> None:
        self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with a blank in it, at a path too long for a socket."""
    top = Path(tempfile.mkdtemp(prefix="astra-embedded-"))
    top.chmod(0o755)
    yield top / "a folder with blanks" / ("deep" * 30) / "var"
    shutil.rmtree(top)


def write(data_dir: Path, word: str) -> None:
    with psycopg.connect(embedded.database_url(data_dir)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])
    with redis.Redis.from_url(embedded.redis_url(data_dir)) as client:
        client.rpush("words", word)


def read(data_dir: Path) -> tuple[list[str], list[str]]:
    with psycopg.connect(embedded.database_url(data_dir)) as connection:
        rows = [row[0] for row in connection.execute("SELECT word FROM words")]
    with redis.Redis.from_url(embedded.redis_url(data_dir)) as client:
        return rows, [word.decode() for word in client.lrange("words", 0, -1)]


def kill(data_dir: Path, name: str) -> None:
    pid = int(Layout(data_dir).pid(name).read_text())
    os.kill(pid, signal.SIGKILL)


def all_are_dead(data_dir: Path) -> bool:
    held = embedded.Servers(data_dir, postgres=True, valkey=True, durable=False)
    return not any(server.is_alive() for server in held.servers)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The machine's folder for temporary files, with nothing of other tests in it."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_a_deep_path_with_blanks_works_and_nothing_outside_it_changes(data_dir: Path, shared: Path) -> None:
    top = data_dir.parents[2]
    data_dir.parent.mkdir(parents=True)
    before = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in [data_dir.parent, *data_dir.parents, shared]}
    assert len(str(data_dir)) > 108
    with embedded.servers(data_dir, durable=False):
        write(data_dir, "ñ")
        assert read(data_dir) == (["ñ"], ["ñ"])
        run = Layout(data_dir).run
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        assert list(shared.iterdir()) == [run]
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert {folder: stat.S_IMODE(folder.stat().st_mode) for folder in before} == before
    assert list(shared.iterdir()) == []
    assert all_are_dead(data_dir)
    assert [path.name for path in top.iterdir()] == ["a folder with blanks"]


def test_both_listen_on_a_socket_only(data_dir: Path) -> None:
    with embedded.servers(data_dir, durable=False):
        with psycopg.connect(embedded.database_url(data_dir)) as connection:
            row = connection.execute("SELECT current_setting('listen_addresses'), current_setting('server_encoding')")
            assert row.fetchone() == ("", "UTF8")
        with redis.Redis.from_url(embedded.redis_url(data_dir)) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_by_default_no_commit_is_lost_in_a_power_cut(data_dir: Path) -> None:
    with (
        embedded.servers(data_dir, valkey=False),
        psycopg.connect(embedded.database_url(data_dir)) as connection,
    ):
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == ("on",)


@pytest.mark.parametrize("victims", [["postgres"], ["valkey"], ["postgres", "valkey"]])
def test_servers_killed_while_held_are_revived_with_their_data(data_dir: Path, victims: list[str]) -> None:
    with embedded.servers(data_dir, durable=False) as held:
        write(data_dir, "kept")
        for victim in victims:
            kill(data_dir, victim)
        until(lambda: len(held.dead()) == len(victims))
        assert held.revive() == victims
        assert held.dead() == []
        assert read(data_dir) == (["kept"], ["kept"])


def test_servers_whose_sockets_were_cleaned_away_while_held_are_revived_with_their_data(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astra_site.embedded.server.SOCKET_SECONDS", 0.1)
    with embedded.servers(data_dir, durable=False) as held:
        write(data_dir, "kept")
        shutil.rmtree(Layout(data_dir).run)
        assert len(held.dead()) == 2
        assert held.revive() == ["postgres", "valkey"]
        assert held.dead() == []
        assert read(data_dir) == (["kept"], ["kept"])


def test_after_a_kill_of_everything_the_next_start_cleans_up_and_finds_all_data(data_dir: Path) -> None:
    user = User(data_dir)
    user.wait_until_up()
    write(data_dir, "kept")
    user.kill()
    kill(data_dir, "postgres")
    kill(data_dir, "valkey")
    until(lambda: all_are_dead(data_dir))
    # The worst that a kill can leave: process ids that belong to someone else by now.
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with embedded.servers(data_dir, durable=False) as held:
        assert held.started == ["postgres", "valkey"]
        assert read(data_dir) == (["kept"], ["kept"])
    assert all_are_dead(data_dir)


def test_servers_that_outlive_their_killed_user_are_found_and_stopped_by_the_next(data_dir: Path) -> None:
    user = User(data_dir)
    user.wait_until_up()
    write(data_dir, "kept")
    user.kill()
    with embedded.servers(data_dir, durable=False) as held:
        assert held.started == []
        assert read(data_dir) == (["kept"], ["kept"])
    assert all_are_dead(data_dir)


def test_a_killed_user_of_both_servers_is_cleaned_up_by_one_who_needs_only_postgresql(data_dir: Path) -> None:
    user = User(data_dir)
    user.wait_until_up()
    user.kill()
    with embedded.servers(data_dir, valkey=False, durable=False):
        pass
    assert all_are_dead(data_dir)


def test_two_cold_starts_at_once_share_one_pair_of_servers(data_dir: Path) -> None:
    users = [User(data_dir), User(data_dir)]
    for user in users:
        user.wait_until_up()
    write(data_dir, "shared")
    users[0].leave()
    assert read(data_dir) == (["shared"], ["shared"])
    users[1].leave()
    assert all_are_dead(data_dir)


def test_an_interrupted_first_start_leaves_nothing_half_done(data_dir: Path) -> None:
    draft = data_dir / "postgres.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    with embedded.servers(data_dir, durable=False):
        write(data_dir, "whole")
    assert not draft.exists()


def test_only_the_server_that_is_asked_for_runs(data_dir: Path) -> None:
    with embedded.servers(data_dir, postgres=False, durable=False) as held:
        with redis.Redis.from_url(embedded.redis_url(data_dir)) as client:
            assert client.ping()
        assert held.started == ["valkey"]
        assert not (data_dir / "postgres").exists()


def test_data_of_another_major_version_are_refused_in_a_sentence(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True, mode=0o700)
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(embedded.EmbeddedError, match="made by PostgreSQL 15, and this Astra brings PostgreSQL 18"):
        embedded.Servers(data_dir, postgres=True, valkey=True, durable=False).enter()
    assert (data_dir / "postgres" / "PG_VERSION").read_text() == "15\n"
    assert all_are_dead(data_dir)


def test_a_folder_of_another_user_in_the_place_of_the_sockets_is_refused(data_dir: Path) -> None:
    run = Layout(data_dir).run
    run.mkdir(mode=0o755)
    try:
        with pytest.raises(embedded.EmbeddedError, match="is not this user's own"):
            embedded.Servers(data_dir, postgres=False, valkey=True, durable=False).enter()
    finally:
        run.rmdir()


def test_a_process_with_another_temporary_folder_finds_the_running_servers(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with embedded.servers(data_dir, postgres=False, durable=False):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with redis.Redis.from_url(embedded.redis_url(data_dir)) as client:
            assert client.ping()


class OtherUser(User):
    """The same as another user of this machine, with a Python that this user may run."""

    def __init__(self, data_dir: Path, user: int) -> None:
        self.process = subprocess.Popen(
            [self.python(user), "-c", HOLD, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **self.identity(user),
        )

    @classmethod
    def python(cls, user: int) -> str:
        for python in (sys.executable, "/usr/bin/python3"):
            command = [python, "-c", "from astra_site.embedded import postgres; postgres.binary('postgres').open('rb')"]
            with suppress(OSError):
                if subprocess.run(command, stderr=subprocess.DEVNULL, **cls.identity(user)).returncode == 0:
                    return python
        pytest.skip("No other user may run Python 3.11 and the servers of this checkout.")

    @staticmethod
    def identity(user: int) -> dict[str, Any]:
        found = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return {"user": user, "group": user, "extra_groups": [], "env": found}


@ONLY_ROOT
@pytest.mark.parametrize("user", [NOBODY, 54321], ids=["nobody", "a user without a name"])
def test_an_ordinary_user_needs_no_help(data_dir: Path, user: int) -> None:
    data_dir.parent.mkdir(parents=True)
    os.chown(data_dir.parent, user, user)
    other = OtherUser(data_dir, user)
    other.wait_until_up()
    pid = int((data_dir / "locks" / "postgres.pid").read_text())
    assert Path(f"/proc/{pid}").stat().st_uid == user
    assert data_dir.stat().st_uid == user
    other.leave()
    assert all_are_dead(data_dir)


@ONLY_ROOT
def test_the_data_directory_of_another_user_is_refused_in_a_sentence(data_dir: Path) -> None:
    with embedded.servers(data_dir, postgres=False, durable=False):
        other = OtherUser(data_dir, NOBODY)
        _, errors = other.process.communicate(timeout=DEADLINE_S)
    last = errors.decode().splitlines()[-1]
    assert f"EmbeddedError: The data directory '{data_dir}' cannot be used: " in last


@ONLY_ROOT
def test_where_user_namespaces_are_forbidden_root_runs_postgresql_as_nobody(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if subprocess.run(["setpriv", f"--reuid={NOBODY}", "test", "-x", sys.prefix], check=False).returncode:
        pytest.skip("nobody cannot reach this virtual environment.")
    with embedded.servers(data_dir, durable=False):
        write(data_dir, "kept")
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\nexit 1\n")
    unshare.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with embedded.servers(data_dir, durable=False):
            write(data_dir, "as nobody")
            pid = int(Layout(data_dir).pid("postgres").read_text())
            assert Path(f"/proc/{pid}").stat().st_uid == NOBODY
    with embedded.servers(data_dir, durable=False):
        assert read(data_dir)[0] == ["kept", "as nobody"]


def test_servers_whose_sockets_were_cleaned_away_are_started_afresh(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astra_site.embedded.server.SOCKET_SECONDS", 0.1)
    user = User(data_dir)
    user.wait_until_up()
    write(data_dir, "kept")
    shutil.rmtree(Layout(data_dir).run)
    with embedded.servers(data_dir, durable=False) as held:
        assert held.started == ["postgres", "valkey"]
        assert read(data_dir) == (["kept"], ["kept"])
    user.leave()
    assert all_are_dead(data_dir)
