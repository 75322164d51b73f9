"""The frames that are not a running stream's own: how a reply ended, what it looks like to one who comes late."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from accounts.problems import Problem
from agents import markdown
from agents.models import CLIENT_ID_LENGTH
from agents.runtime.errors import RunError

if TYPE_CHECKING:
    from agents.chat.exchange import Reply

#: A longer text is rendered beside the loop. Text that is made for it takes 30 microseconds for each of these.
_LONG = 1_000
#: Long texts wait for each other here, and nobody else waits for them.
_beside = ThreadPoolExecutor(1, thread_name_prefix="markdown")
#: So many of them are kept, for whoever asks for the same answer again.
_KEPT = 32


def encode(frame: dict[str, Any]) -> str:
    """Return a frame as it goes over the wire."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))


async def html(text: str) -> str:
    """Return a reply's text as sanitised HTML."""
    if len(text) <= _LONG:
        return str(markdown.render(text))
    shown = text[: markdown.MAX_CHARACTERS]
    return await asyncio.get_running_loop().run_in_executor(_beside, _rendered, shown)


@lru_cache(maxsize=_KEPT)
def _rendered(text: str) -> str:
    return str(markdown.render(text))


async def last(reply: Reply) -> str:
    """Return the last frame of a reply that has ended."""
    frame: dict[str, Any] = {
        "run_id": str(reply.run_id),
        "type": "run.failed" if reply.status == "failed" else "run.finished",
        "seq": reply.seq,
        "message_id": str(reply.message_id),
        "html": await html(reply.text),
        "text": reply.text,
        "usage": reply.usage,
    }
    if reply.status == "failed":
        frame["problem"] = reply.problem
    else:
        frame["stopped"] = reply.status == "stopped"
    return encode(frame)


def snapshot(reply: Reply) -> str:
    """Return what the database has of a reply: at most a second old while it is written.

    Of one that has ended its last frame follows, of one that waits the frame that says so.
    """
    return encode(
        {
            "run_id": str(reply.run_id),
            "type": "run.snapshot",
            "seq": reply.seq - (reply.has_ended or reply.is_parked),
            "text": reply.text,
            "steps": reply.steps,
            "message_id": str(reply.message_id),
        }
    )


async def message(message_id: UUID, role: str, text: str) -> str:
    """Return the frame of a message that came from outside of a run."""
    return encode(
        {"type": "conversation.message", "message_id": str(message_id), "role": role, "html": await html(text)}
    )


def waiting(reply: Reply) -> str:
    """Return the frame that says what a reply waits for. Nothing comes after it until that is over."""
    asked = next((wait.approval_id for wait in reply.waits if wait.approval_id is not None), None)
    return encode(
        {
            "run_id": str(reply.run_id),
            "type": "run.waiting",
            "seq": reply.seq,
            "approval_id": str(asked) if asked is not None else None,
            "message_id": str(reply.message_id),
            "waits": [wait.as_frame() for wait in reply.waits],
        }
    )


def unheard(reply: Reply) -> str:
    """Return the sign of life of a reply that nobody was heard of for a while: ``state`` is its run's."""
    return encode(
        {
            "run_id": str(reply.run_id),
            "type": "run.heartbeat",
            "seq": reply.seq,
            "elapsed_ms": reply.elapsed_ms,
            "state": reply.state.value,
        }
    )


def error(refusal: Problem | RunError, client_id: Any = None) -> str:
    """Return the frame of a refusal."""
    body = refusal.body() if isinstance(refusal, Problem) else {"status": 422, **refusal.as_problem()}
    frame: dict[str, Any] = {"type": "error", "problem": body}
    if isinstance(client_id, str):
        # It may have half a character.
        frame["client_id"] = client_id[:CLIENT_ID_LENGTH].encode("utf-8", "replace").decode()
    return encode(frame)
