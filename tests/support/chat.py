"""A page of the chat without a browser: it applies frames as the public contract says, and no other way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User

from agents.models import Conversation
from astra_site import listening
from tests.support.processes import EMPTY, Process, Processes
from tests.support.websocket import Closed, WebSocket

#: A page that asked for a snapshot and got none asks again after so long. Seconds.
ASK_AGAIN_S = 1.0
#: How long a page looks at its socket before it looks at another's. Seconds.
POLL_S = 0.02
ENDS = ("run.finished", "run.failed")
T = TypeVar("T")


class Web:
    """A web process and its port. Another process may take the port over."""

    def __init__(
        self, processes: Processes, model_url: str = "", *, port: int = 0, environment: Mapping[str, str] = EMPTY
    ) -> None:
        listener = listening.listen("127.0.0.1", port)
        self.port: int = listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        model = {"ASTRA_MODEL": "openai:test", "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": model_url}
        number = listener.fileno()
        self.process: Process = processes.start(
            "web", "--fd", str(number), environment={**(model if model_url else {}), **environment}, keeps=[number]
        )
        listener.close()


def sign_in(user: User) -> dict[str, str]:
    """Return the cookie of a new session of the user's."""
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session.session_key}"}


@dataclass
class Shown:
    """What a page holds of one reply."""

    run_id: str
    seq: int = 0
    text: str = ""
    #: The last frame of each step, by key.
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The frame it ended with.
    end: dict[str, Any] | None = None
    accepted: dict[str, Any] | None = None
    asked_at: float | None = None
    #: Frames after which something was missing, and frames that came a second time.
    gaps: int = 0
    repeats: int = 0
    snapshots: int = 0


class Page:
    """One tab, or one program, on a conversation: what it sent, what it was sent, and what it shows."""

    def __init__(
        self,
        web: Web,
        conversation: Conversation | UUID | str,
        headers: Mapping[str, str] = EMPTY,
        *,
        receive_buffer: int | None = None,
    ) -> None:
        self.web = web
        self.conversation_id = conversation.pk if isinstance(conversation, Conversation) else conversation
        self.headers = headers
        self.receive_buffer = receive_buffer
        self.frames: list[dict[str, Any]] = []
        #: When each frame was read, on the monotonic clock.
        self.times: list[float] = []
        self.replies: dict[str, Shown] = {}
        self.errors: list[dict[str, Any]] = []
        #: Codes of the closes that came from the server; None: without a word.
        self.closes: list[int | None] = []
        self.socket: WebSocket | None = None
        self.open()

    # --- the line -----------------------------------------------------------------------------------------------

    def open(self, web: Web | None = None) -> None:
        """Open the socket, here or at another process, and resume what has not ended. Waits for a process to start."""
        self.web = web or self.web
        deadline = time.monotonic() + 30
        while True:
            assert self.web.process.is_alive, "the web process has ended"
            try:
                self.socket = WebSocket(
                    self.web.port,
                    f"/ws/chat/{self.conversation_id}/",
                    {"Origin": self.web.origin, **self.headers},
                    receive_buffer=self.receive_buffer,
                )
                break
            except (Closed, ConnectionError, TimeoutError):
                assert time.monotonic() < deadline, "the web process does not answer"
                time.sleep(POLL_S)
        for shown in self.replies.values():
            if shown.end is None:
                self.resume(shown.run_id)

    def drop(self) -> None:
        """Lose the line, without a close frame."""
        if self.socket is not None:
            self.socket.socket.close()
            self.socket = None

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    @property
    def is_open(self) -> bool:
        return self.socket is not None

    # --- what it says -------------------------------------------------------------------------------------------

    def send(self, data: Any) -> None:
        """Send JSON. A line that is gone is noticed when the page reads."""
        assert self.socket is not None
        try:
            self.socket.send(data)
        except OSError:
            return

    def say(self, text: str = "Where does the river end?", client_id: str | None = None) -> str:
        """Send a message; return its client_id."""
        client_id = client_id or str(uuid4())
        self.send({"type": "message", "text": text, "client_id": client_id})
        return client_id

    def begin(self, text: str = "Where does the river end?") -> Shown:
        """Send a message and return the reply, once it was accepted."""
        client_id = self.say(text)
        self.until(lambda: self.answer_to(client_id), within_s=20)
        return next(shown for shown in self.replies.values() if shown is self.answer_to(client_id))

    def answer_to(self, client_id: str) -> Shown | None:
        """Return the reply to a message."""
        for shown in self.replies.values():
            if shown.accepted is not None and shown.accepted["client_id"] == client_id:
                return shown
        return None

    def stop(self, run_id: str) -> None:
        self.send({"type": "stop", "run_id": run_id})

    def resume(self, run_id: str) -> Shown:
        """Ask for a reply; return what will be shown of it."""
        shown = self.replies.setdefault(run_id, Shown(run_id))
        shown.asked_at = time.monotonic()
        self.send({"type": "resume", "run_id": run_id, "last_seq": shown.seq})
        return shown

    # --- what it is sent ----------------------------------------------------------------------------------------

    def read(self, within_s: float = POLL_S) -> bool:
        """Take what has come; wait so long at most for the first frame. Returns whether there was any."""
        found = False
        while self.socket is not None and self.socket.has_frame(0.0 if found else within_s):
            try:
                data = self.socket.take()
            except (Closed, OSError) as closed:
                self.closes.append(closed.code if isinstance(closed, Closed) else None)
                self.drop()
                return True
            found = True
            if data is not None:
                self.frames.append(json.loads(data))
                self.times.append(time.monotonic())
                self._apply(self.frames[-1])
        return found

    def until(self, what: Callable[[], T], *, within_s: float = 10) -> T:
        """Read until ``what()`` is true, and return it; fail when it is not in time."""
        return until([self], what, within_s=within_s)

    def ended(self, shown: Shown, *, within_s: float = 20) -> dict[str, Any]:
        """Read until a reply has ended; return the frame that says so."""
        return self.until(lambda: shown.end, within_s=within_s) or {}

    def of(self, kind: str, shown: Shown | None = None) -> list[dict[str, Any]]:
        """Return the frames of a type, of one reply or of all."""
        return [
            frame
            for frame in self.frames
            if frame["type"] == kind and (shown is None or frame.get("run_id") == shown.run_id)
        ]

    def _apply(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "error":
            self.errors.append(frame)
        if not frame["type"].startswith("run."):
            return
        shown = self.replies.setdefault(frame["run_id"], Shown(frame["run_id"]))
        if frame["type"] == "run.accepted":
            shown.accepted = frame
        if frame["type"] in ENDS:
            shown.end, shown.text, shown.seq = frame, frame["text"], frame["seq"]
        elif shown.end is None:
            self._follow(shown, frame)

    def _follow(self, shown: Shown, frame: dict[str, Any]) -> None:
        kind, seq = frame["type"], frame["seq"]
        if kind == "run.snapshot":
            shown.text, shown.seq, shown.asked_at = frame["text"], seq, None
            shown.steps = {step["key"]: step for step in frame["steps"]}
            shown.snapshots += 1
        elif kind == "run.heartbeat":
            if seq != shown.seq:
                self._ask(shown)
        elif seq <= shown.seq:
            shown.repeats += kind != "run.accepted"
        elif seq != shown.seq + 1:
            shown.gaps += 1
            self._ask(shown)
        else:
            shown.seq = seq
            self._go_on(shown, frame)

    def _go_on(self, shown: Shown, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "run.delta":
            shown.text += frame["text"]
        elif kind == "run.withdrawn":
            shown.text = frame["text"]
        elif kind == "run.step":
            shown.steps[frame["key"]] = frame

    def _ask(self, shown: Shown) -> None:
        if shown.asked_at is None or time.monotonic() - shown.asked_at > ASK_AGAIN_S:
            self.resume(shown.run_id)


def until(pages: Iterable[Page], what: Callable[[], T], *, within_s: float = 10) -> T:
    """Let all these pages read until ``what()`` is true, and return it; fail when it is not in time."""
    pages = list(pages)
    deadline = time.monotonic() + within_s
    while not (value := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s; in the end it was {value!r}; " + _tell(pages))
        if not [page for page in pages if page.read(POLL_S / len(pages))] and not any(page.is_open for page in pages):
            time.sleep(POLL_S)
    return value


def _tell(pages: Iterable[Page]) -> str:
    return "; ".join(
        f"closes {page.closes}, errors {page.errors[-2:]}, last {str(page.frames[-3:])[:1500]}" for page in pages
    )
