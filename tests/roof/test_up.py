"""All of Astra in one command, as a user runs it: real processes, real kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from astra_site import embedded
from astra_site.embedded.layout import Layout
from tests.support.processes import eventually

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
until = partial(eventually, within_s=DEADLINE_S)
COMMANDS = ("web", "worker", "scheduler")


class Astra:
    """A run of ``manage.py up`` on a data directory and a port of its own."""

    def __init__(self, data_dir: Path, port: int, *arguments: str) -> None:
        self.data_dir = data_dir
        self.port = port
        self.lines: list[str] = []
        self.log = data_dir.parent / f"{data_dir.name}-{port}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "up", "--port", str(port), *arguments],
                env=environment(data_dir),
                cwd=data_dir.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
            )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)

    def wait_until_ready(self) -> None:
        until(lambda: self.said("^Astra is ready at ") or self.process.poll() is not None)
        assert self.said(f"^Astra is ready at {self.url}$"), self.lines

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def children(self, command: str) -> list[int]:
        """Return the process ids of the children that run a command."""
        found = []
        for pid in processes():
            words = command_line(pid)
            if parent(pid) == self.process.pid and "manage.py" in words and f"\0{command}\0" in words:
                found.append(pid)
        return found

    def child(self, command: str) -> int | None:
        """Return the process id of the one child that runs a command."""
        return next(iter(self.children(command)), None)

    def serving_chat(self) -> set[int]:
        """Return the process ids of the children that hold a lease on lane chat."""
        with psycopg.connect(embedded.database_url(self.data_dir)) as connection:
            rows = connection.execute(
                "SELECT pid FROM jobs_worker WHERE 'chat' = ANY(lanes) AND ended_at IS NULL AND lease_until > now()"
            ).fetchall()
        return {int(pid) for (pid,) in rows}

    def stop(self, number: signal.Signals) -> int:
        """Send a signal to the whole group, as a terminal does; return the exit status."""
        os.killpg(self.process.pid, number)
        status = self.process.wait(DEADLINE_S)
        self.reader.join(DEADLINE_S)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def environment(data_dir: Path) -> dict[str, str]:
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return bare | {"ASTRA_DATA_DIR": str(data_dir), "ASTRA_GRACE_S": "5"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += str(entry.readlink()).startswith("socket:")
    return found


def living(data_dir: Path) -> list[str]:
    """Return the command lines of all processes that have to do with a data directory."""
    marks = (f"ASTRA_DATA_DIR={data_dir}", str(data_dir), str(Layout(data_dir).run))
    found = []
    for pid in processes():
        try:
            words = command_line(pid) + Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if pid != os.getpid() and any(mark in words for mark in marks):
            found.append(command_line(pid).replace("\0", " "))
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="astra up "))
    yield top
    shutil.rmtree(top)


@pytest.fixture(scope="module")
def astra(folder: Path) -> Iterator[Astra]:
    """One first start for most tests of this module. Stopped by SIGTERM, it leaves no process behind."""
    started = Astra(folder / "var", free_port())
    try:
        started.wait_until_ready()
        yield started
    finally:
        status = started.stop(signal.SIGTERM)
    assert status == 0
    assert living(started.data_dir) == []


pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="It reads /proc.")


def test_the_first_start_shows_the_demo_users_passwords_and_they_let_one_in(astra: Astra) -> None:
    until(lambda: astra.said(r"^  admin "))
    shown = dict(line.split() for line in astra.lines if line.startswith("  "))
    assert list(shown) == ["operator", "reviewer", "user", "admin"]
    with httpx.Client(base_url=astra.url, follow_redirects=True) as client:
        page = client.get("/console/")
        assert page.url.path == "/accounts/login/"
        token = client.cookies["csrftoken"]
        form = {"username": "operator", "password": shown["operator"], "csrfmiddlewaretoken": token}
        signed_in = client.post(page.url, data=form, headers={"Referer": astra.url})
        assert (signed_in.status_code, signed_in.url.path) == (200, "/console/")
        style = re.search(r'href="(/static/[^"]+\.css)"', signed_in.text)
        assert style
        assert client.get(style[1]).status_code == 200
        assert "immutable" in client.get(style[1]).headers["cache-control"]


def test_forty_wrong_sign_ins_at_once_leave_room_for_everybody_else(astra: Astra) -> None:
    together = threading.Barrier(40)

    def sign_in(number: int) -> int:
        with httpx.Client(base_url=astra.url, timeout=DEADLINE_S) as client:
            client.get("/accounts/login/")
            form = {"username": f"nobody {number}", "password": "x", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            together.wait(DEADLINE_S)
            return client.post("/accounts/login/", data=form, headers={"Referer": astra.url}).status_code

    with ThreadPoolExecutor(40) as pool:
        attempts = [pool.submit(sign_in, number) for number in range(40)]
        until(lambda: any(attempt.done() for attempt in attempts))
        # It asks the database, and is answered while others wait for their turn.
        assert httpx.get(f"{astra.url}/readyz", timeout=5).json()["checks"]["database"] == "ok"
        statuses = [attempt.result() for attempt in attempts]
    assert set(statuses) == {200, 503}


def test_nobody_but_the_owner_can_look_into_the_data_directory(astra: Astra) -> None:
    assert astra.data_dir.stat().st_mode & 0o077 == 0
    assert Layout(astra.data_dir).run.stat().st_mode & 0o077 == 0


def test_a_second_up_on_the_same_data_directory_is_refused_in_one_sentence(astra: Astra) -> None:
    done = refused(astra.data_dir, free_port())
    assert re.search(r"Astra already runs on the data directory '.*' \(http://127\.0\.0\.1:\d+\)\.$", done)
    assert astra.is_ready()


def test_a_taken_port_is_refused_in_one_sentence_before_anything_is_made(astra: Astra, folder: Path) -> None:
    other = folder / "other"
    done = refused(other, astra.port)
    assert f"Port {astra.port} of 127.0.0.1 is taken by another program." in done
    assert done.endswith("Choose one with --port or ASTRA_PORT.")
    assert not (other / "postgres").exists()
    assert astra.is_ready()


def test_a_lane_that_does_not_exist_is_refused_in_one_sentence(folder: Path) -> None:
    assert "there is no lane 'fast'" in refused(folder / "lanes", free_port(), "--workers", "fast:3")


def test_a_database_that_does_not_answer_is_said_in_one_sentence(folder: Path) -> None:
    done = run_up(folder / "away", free_port(), DATABASE_URL=f"postgresql://astra@127.0.0.1:{free_port()}/astra")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "The database of DATABASE_URL does not answer: " in done.stderr


def refused(data_dir: Path, port: int, *arguments: str) -> str:
    done = run_up(data_dir, port, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def run_up(data_dir: Path, port: int, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "manage.py"), "up", "--port", str(port), *arguments]
    return subprocess.run(
        command, env=environment(data_dir) | more, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@pytest.mark.parametrize(("command", "name"), [("worker", "worker"), ("web", "web server"), ("scheduler", "scheduler")])
def test_a_child_that_is_killed_is_said_and_started_again(astra: Astra, command: str, name: str) -> None:
    first = astra.child(command)
    assert first
    os.kill(first, signal.SIGKILL)
    until(lambda: astra.said(rf"^The {name} was killed by SIGKILL\. It starts again in \d+ s\.$"))
    until(lambda: astra.child(command) not in (None, first))
    until(astra.is_ready)


@pytest.mark.parametrize("command", ["worker", "web"])
def test_a_killed_workers_lease_is_released_at_once(astra: Astra, command: str) -> None:
    first = astra.child(command)
    assert first
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    with psycopg.connect(embedded.database_url(astra.data_dir), autocommit=True) as connection:

        def end() -> str:
            row = connection.execute('SELECT "end" FROM jobs_worker WHERE pid = %s', [first]).fetchone()
            assert row
            return str(row[0])

        until(lambda: end() != "")
        # Well before the six seconds of the lease: then the reconciler would have called it lost.
        assert end() == "died"
        assert time.monotonic() - began < 5
    until(lambda: astra.child(command) not in (None, first))
    until(astra.is_ready)


@pytest.mark.parametrize(("name", "label"), [("postgres", "PostgreSQL"), ("valkey", "Valkey")])
def test_an_embedded_server_that_is_killed_is_started_again(astra: Astra, name: str, label: str) -> None:
    pid = int(Layout(astra.data_dir).pid(name).read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: astra.said(f"^The embedded {label} died; it (is|was) started again"))
    until(astra.is_ready)


def test_other_commands_use_the_servers_that_run_and_leave_them_running(astra: Astra) -> None:
    pid = int(Layout(astra.data_dir).pid("postgres").read_text())
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "doctor"],
        env=environment(astra.data_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Every lane has a live worker." in done.stdout
    assert int(Layout(astra.data_dir).pid("postgres").read_text()) == pid


def test_a_sigkill_of_up_takes_its_children_along_and_the_next_start_finds_all_data(folder: Path) -> None:
    data_dir = folder / "killed"
    first = Astra(data_dir, free_port())
    first.wait_until_ready()
    children = [first.child(command) for command in COMMANDS]
    assert all(children)
    first.stop(signal.SIGKILL)
    until(lambda: not any(pid is not None and f"{ROOT}/manage.py" in command_line(pid) for pid in children))
    second = Astra(data_dir, first.port)
    try:
        second.wait_until_ready()
        until(lambda: second.said("changepassword"))
        assert not second.said("^Sign in as one of the demo users")
    finally:
        status = second.stop(signal.SIGINT)
    assert status == 0
    assert second.said("^Astra stops")
    assert "Traceback" not in second.log.read_text()
    assert living(data_dir) == []
    with embedded.servers(data_dir), psycopg.connect(embedded.database_url(data_dir)) as connection:
        names = connection.execute("SELECT username FROM auth_user ORDER BY username").fetchall()
    assert names == [("admin",), ("operator",), ("reviewer",), ("user",)]


@pytest.fixture(scope="module")
def many(folder: Path) -> Iterator[Astra]:
    """A run with two web processes. Stopped, it leaves no process behind."""
    started = Astra(folder / "many", free_port(), "--web", "2")
    try:
        started.wait_until_ready()
        yield started
    finally:
        status = started.stop(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in started.log.read_text()
    assert living(started.data_dir) == []


def test_web_processes_share_the_port_and_each_is_started_again_by_itself(many: Astra) -> None:
    first = set(many.children("web"))
    assert len(first) == 2
    until(lambda: many.serving_chat() == first)
    before = {pid: sockets(pid) for pid in first}
    with ExitStack() as stack:

        def each_has_taken_some() -> bool:
            for _ in range(20):
                stack.enter_context(socket.create_connection(("127.0.0.1", many.port)))
            # More than connections to the databases, which come and go meanwhile.
            return min(sockets(pid) - before[pid] for pid in first) > 10

        until(each_has_taken_some)
    killed = min(first)
    os.kill(killed, signal.SIGKILL)
    # Whoever comes meanwhile is served by the other.
    assert httpx.get(f"{many.url}/healthz", timeout=10).status_code == 200
    until(lambda: many.said(r"^The web server [12] was killed by SIGKILL\. It starts again in 1 s\.$"))
    until(lambda: len(many.serving_chat() - first) == 1)
    assert many.serving_chat() - first == set(many.children("web")) - first
    assert first - {killed} <= set(many.children("web"))


def test_web_processes_are_renewed_one_by_one_and_every_request_is_answered(many: Astra) -> None:
    until(lambda: len(many.serving_chat()) == 2)
    first = set(many.children("web"))
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(httpx.get(f"{many.url}/healthz", timeout=DEADLINE_S).status_code)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        many.process.send_signal(signal.SIGUSR1)
        until(lambda: all(many.said(rf"^The web server {place} was renewed\.$") for place in (1, 2)))
        done.set()
        for one in asking:
            one.result()
    assert set(answers) == {200}
    second = set(many.children("web"))
    assert len(second) == 2
    assert not first & second
    until(lambda: many.serving_chat() == second)


def test_a_stop_while_astra_is_still_starting_leaves_nothing_running(folder: Path) -> None:
    data_dir = folder / "early"
    early = Astra(data_dir, free_port())
    until(lambda: (data_dir / "postgres.new").exists() or (data_dir / "postgres").exists())
    assert early.stop(signal.SIGTERM) == 0
    assert living(data_dir) == []
