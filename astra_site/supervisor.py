"""Keep child processes running: start them, say when one dies, start it again after a while, stop them in order.

Children that say when they are ready can be renewed without a gap: one after the other, each beside its predecessor,
which is told to stop only then.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Self

from astra_site import sessions
from astra_site.parent import Leash
from astra_site.readiness import Readiness

FIRST_S = 1.0
MOST_S = 30.0
STEADY_S = 60.0
STOP_POLL_S = 0.02
RENEW_POLL_S = 0.1
# The kernel needs a moment to end what was killed.
KILL_S = 5.0


@dataclass
class Backoff:
    """How long to wait before the next start: a second, doubling to half a minute; a second after a steady run."""

    delay: float = FIRST_S

    def after(self, ran_s: float) -> float:
        """Return the seconds to wait after a run that lasted ``ran_s``."""
        if ran_s >= STEADY_S:
            self.delay = FIRST_S
        wait, self.delay = self.delay, min(self.delay * 2, MOST_S)
        return wait


@dataclass(eq=False)
class Child:
    """One process to keep running."""

    name: str
    command: Sequence[str]
    #: Descriptors that it inherits.
    keeps: Sequence[int] = ()
    #: Whether it says when it is ready, as `readiness` has it.
    reports: bool = False
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    readiness: Readiness | None = None
    #: What was started to take its place, and when it is killed if it has not left by then.
    successor: Child | None = None
    leaves_by: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not been collected since."""
        return self.process is not None


class Supervisor:
    """The children of one process. All methods are called from one thread.

    ``say`` gets a sentence for people; ``on_death`` the process id of a child that ended by itself.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        say: Callable[[str], None],
        on_death: Callable[[int], None],
        renew_grace_s: float = MOST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.children = list(children)
        self.say = say
        self.on_death = on_death
        self.renew_grace_s = renew_grace_s
        self.clock = clock
        self.to_renew: deque[Child] = deque()
        self.renewing: Child | None = None
        self.leash = Leash()
        #: The sessions of all children that were started and may have left something running.
        self.sessions: set[int] = set()

    def step(self) -> float:
        """Collect the dead, start what is due; return the seconds until something is due again."""
        now = self.clock()
        for child in tuple(self.children):
            if child.process is not None and (status := child.process.poll()) is not None:
                self._bury(child, status, now)
            if child.process is None and child.successor is None and now >= child.start_at:
                self._start(child, now)
        self._go_on_renewing(now)
        due = min((child.start_at - now for child in self.children if not child.is_running), default=MOST_S)
        return min(due, RENEW_POLL_S) if self.renewing else due

    def renew(self) -> None:
        """Begin to replace the children that say when they are ready, one after the other."""
        for child in self.children:
            if child.reports and child.successor is None and child not in self.to_renew:
                self.to_renew.append(child)

    def _go_on_renewing(self, now: float) -> None:
        old = self.renewing
        if old is None:
            if self.to_renew:
                self._begin_to_renew(self.to_renew.popleft(), now)
            return
        assert old.successor is not None and old.successor.readiness is not None
        if not old.successor.readiness.is_there():
            return
        if old.process is None:
            self.renewing = None
            self.say(f"The {old.name} was renewed.")
        elif old.leaves_by is None:
            old.leaves_by = now + self.renew_grace_s
            old.process.terminate()
        elif now > old.leaves_by:
            self.say(f"The {old.name} does not stop in time; it is killed.")
            old.process.kill()

    def _begin_to_renew(self, child: Child, now: float) -> None:
        if child.process is None:
            return  # it is started anew anyway
        child.successor = Child(child.name, child.command, child.keeps, reports=True)
        self.children.insert(self.children.index(child), child.successor)
        self.renewing = child
        self._start(child.successor, now)

    def stop(self, grace_s: float, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Ask all children to stop, in the order given; kill what is left after ``grace_s`` seconds, or in a hurry."""
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + grace_s
        while self._goes_on() and time.monotonic() < deadline and not is_hurried():
            for process in [process for process in running if process.poll() is not None]:
                running.remove(process)
                # What it started would end by itself, but need not take its time.
                sessions.send(process.pid, signal.SIGTERM)
            time.sleep(STOP_POLL_S)
        self.kill()
        self.leash.close()

    def kill(self) -> None:
        """Kill every child and whatever any child ever started, now."""
        for child in self.children:
            if child.process is not None and child.process.poll() is None:
                self.say(f"The {child.name} does not stop in time; it is killed.")
        for session in self.sessions:
            sessions.send(session, signal.SIGKILL)
        for child in self.children:
            if child.process is not None:
                child.process.wait()
                child.process = None
        deadline = time.monotonic() + KILL_S
        while self._goes_on() and time.monotonic() < deadline:
            time.sleep(STOP_POLL_S)

    def _goes_on(self) -> bool:
        if any(child.process is not None and child.process.poll() is None for child in self.children):
            return True
        self.sessions = {session for session in self.sessions if sessions.members(session)}
        return bool(self.sessions)

    def _start(self, child: Child, now: float) -> None:
        told = child.readiness = Readiness() if child.reports else None
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            pass_fds=[self.leash.descriptor, *child.keeps, *([told.descriptor] if told else [])],
            env=os.environ | self.leash.environment() | (told.environment() if told else {}),
            # Ctrl-C in the terminal reaches the child only through us, and we know all that it starts.
            start_new_session=True,
        )
        if told:
            told.begin()
        child.started_at = now
        self.sessions.add(child.process.pid)

    def _bury(self, child: Child, status: int, now: float) -> None:
        assert child.process is not None
        pid = child.process.pid
        child.process = None
        if child.readiness is not None:
            child.readiness.close()
        if child.successor is not None:
            self.children.remove(child)
            if child.leaves_by is None:
                self.say(f"The {child.name} {how(status)}. Its successor is being started.")
        else:
            wait = child.backoff.after(now - child.started_at)
            child.start_at = now + wait
            self.say(f"The {child.name} {how(status)}. It starts again in {wait:.0f} s.")
        self.on_death(pid)
        sessions.send(pid, signal.SIGTERM)
        self.sessions = {session for session in self.sessions if sessions.members(session)}


def how(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Signals:
    """Wake a loop when a child ends or someone asks to stop."""

    #: Asks to renew the children that can be.
    RENEW = signal.SIGUSR1
    STOPS = tuple(
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # ``nohup`` asks to live on when the terminal goes.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    )

    def __init__(self) -> None:
        self.asked = 0
        self.renewals = 0

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._woken = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._ask) for number in self.STOPS}
        self._before[self.RENEW] = signal.signal(self.RENEW, self._ask_to_renew)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken)
        self._read.close()
        self._write.close()

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as a signal came in."""
        select.select([self._read], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            while self._read.recv(512):
                pass

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    def _ask_to_renew(self, number: int, frame: FrameType | None) -> None:
        self.renewals += 1
