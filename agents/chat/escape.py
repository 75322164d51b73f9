"""The escape hatch: a message whose answer failed for good is handed over as a background task, whose end is told."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection, transaction
from psycopg.types.json import Jsonb

from accounts.problems import Problem
from agents import answer, registry
from agents.chat.conversations import channel, lock_person, next_place
from agents.chat.forgetting import forget
from agents.invoke import QueueFull, invoke
from agents.runtime.errors import BadInput
from audit.trail import SYSTEM
from jobs import script
from jobs.handlers import Succeeded, Transition
from jobs.ids import uuid7
from jobs.script import Row, Script, Tell
from jobs.states import ENDED, State

logger = logging.getLogger(__name__)

#: A message that nobody could hand over for so long is left alone. Hours.
TRY_FOR_H = 24
#: How often, in seconds, and how many at a time, messages are handed over that a dead process left.
SWEEP_EVERY_S = 5.0
SWEEP_PAGE = 50

#: Characters of a message that are quoted where its task's failure is told: another one may stand in between.
QUOTED = 80

_MARKED = re.compile(r"([\\`*_\[\]<>])")


async def hand_over(run_id: UUID) -> UUID | None:
    """Hand the message of a failed reply over to its endpoint's escape. Safe any number of times: one task comes of it.

    Returns the task's id. None if there is nothing to hand over, or if it can't be now: then `sweep` tries again. The
    message's ``problem`` says so afterwards: ``"handed_over": {"task_id", "endpoint"}``.
    """
    try:
        return await sync_to_async(_in_thread, thread_sensitive=False)(run_id)
    except DatabaseError as error:
        logger.warning("could not hand over run %s: %s", run_id, error, extra={"action": "not_handed_over"})
        return None


def _in_thread(run_id: UUID) -> UUID | None:
    close_old_connections()
    try:
        return hand_over_now(run_id)
    finally:
        close_old_connections()


def sweep() -> None:
    """Hand over what is left: the process that should have done it died, or the queue was full."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.id FROM jobs_job j JOIN agents_run r ON r.job_id = j.id"
            " JOIN agents_endpoint e ON e.id = r.endpoint_id"
            " JOIN agents_message m ON m.run_id = j.id AND m.role = 'assistant'"
            " WHERE j.state = 'dead' AND j.finished_at > now() - make_interval(hours => %s)"
            " AND e.definition ->> 'escape' IS NOT NULL AND j.payload ? 'message'"
            " AND coalesce(j.error ->> 'users_own', '') <> 'true'"
            " AND NOT coalesce(m.problem, '{}') ? 'handed_over' ORDER BY j.finished_at LIMIT %s",
            [TRY_FOR_H, SWEEP_PAGE],
        )
        left = [run_id for (run_id,) in cursor.fetchall()]
    for run_id in left:
        try:
            hand_over_now(run_id)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("could not hand over run %s", run_id, extra={"action": "not_handed_over"})


def hand_over_now(run_id: UUID) -> UUID | None:
    """Do what `hand_over` says, in this thread."""
    with transaction.atomic():
        row = script.run(_failed(run_id))
        if row is None:
            return None
        if (earlier := (row["problem"] or {}).get("handed_over")) is not None:
            return UUID(earlier["task_id"]) if "task_id" in earlier else None
        known = registry.current().endpoints
        chat = known.get(row["endpoint"])
        if chat is None or chat.escape is None:
            return None
        escape = known.get(chat.escape)
        given = escape.message_input(row["text"]) if escape is not None else None
        try:
            made = invoke(
                chat.escape,
                row["text"] if given is None else given,
                user=User.objects.get(pk=row["user_id"]),
                actor=SYSTEM,
                idempotency_key=f"escape:{run_id}",
                payload={"conversation": str(row["conversation_id"]), "reply_to": str(row["id"])},
            )
        except QueueFull:
            return None
        except (Problem, BadInput) as refused:
            logger.warning(
                "%s does not take over run %s: %s", chat.escape, run_id, refused, extra={"action": "not_handed_over"}
            )
            script.run(_mark(row["id"], {"endpoint": chat.escape, "refused": str(refused)}))
            return None
        script.run(_mark(row["id"], {"endpoint": chat.escape, "task_id": str(made.run_id)}))
        return made.run_id


def _failed(run_id: UUID) -> Script[Row | None]:
    """Lock a failed reply and return it with its message; None if it is no such thing, or the user's own failure."""
    owner = yield "SELECT user_id FROM agents_run WHERE job_id = %s AND user_id IS NOT NULL", [run_id]
    if not owner:
        return None
    yield from lock_person(owner[0]["user_id"])
    rows = yield (
        "SELECT reply.id, reply.conversation_id, reply.problem, asked.text, r.user_id, e.name AS endpoint, j.error"
        " FROM jobs_job j JOIN agents_run r ON r.job_id = j.id JOIN agents_endpoint e ON e.id = r.endpoint_id"
        " JOIN agents_message reply ON reply.run_id = j.id AND reply.role = 'assistant'"
        " JOIN agents_message asked ON asked.run_id = j.id AND asked.role = 'user'"
        " WHERE j.id = %s AND j.state = 'dead' AND j.payload ->> 'message' = reply.id::text"
        " FOR NO KEY UPDATE OF reply",
        [run_id],
    )
    if not rows or (rows[0]["error"] or {}).get("users_own"):
        return None
    return rows[0]


def _mark(message_id: UUID, handed_over: dict[str, str]) -> Script[None]:
    yield (
        "UPDATE agents_message SET problem = coalesce(problem, '{}') || %s WHERE id = %s",
        [Jsonb({"handed_over": handed_over}), message_id],
    )


def on_task_ended(change: Transition) -> Script[None]:
    """Tell the conversation how a task ended that a message was handed over to (``"reply_to" in change.payload``).

    In the transaction of the task's end, so that it is told once. Any other change is none of the conversation's.
    """
    if change.new not in ENDED or change.old in ENDED:
        return
    conversation_id = change.payload["conversation"]
    place = yield from next_place(conversation_id)
    if place is None:
        yield from forget([change.job_id])
        return
    text, problem = yield from _told(change)
    message_id = uuid7()
    yield (
        "INSERT INTO agents_message (id, conversation_id, place, role, text, status, run_id, seq, problem)"
        " VALUES (%s, %s, %s, 'assistant', %s, %s, %s, 0, %s)",
        [
            message_id,
            conversation_id,
            place,
            text,
            "done" if change.new is State.SUCCEEDED else "failed",
            change.job_id,
            Jsonb(problem) if problem else None,
        ],
    )
    yield "UPDATE agents_conversation SET updated_at = now() WHERE id = %s", [conversation_id]
    yield Tell(channel(conversation_id), {"type": "conversation.message", "message_id": str(message_id)})


def _told(change: Transition) -> Script[tuple[str, dict[str, Any] | None]]:
    """Return what the conversation is told, and the problem if it is one."""
    if change.new is State.SUCCEEDED:
        rows = yield "SELECT output FROM agents_run WHERE job_id = %s", [change.job_id]
        output = change.outcome.result if isinstance(change.outcome, Succeeded) else rows[0]["output"]
        return text_of(output), None
    if change.new is State.CANCELLED:
        return "The task in the background was cancelled before it had an answer.", None
    rows = yield (
        "SELECT job.error, asked.text FROM jobs_job job"
        " LEFT JOIN agents_message reply ON reply.id = %s"
        " LEFT JOIN agents_message asked ON asked.run_id = reply.run_id AND asked.role = 'user'"
        " WHERE job.id = %s",
        [change.payload["reply_to"], change.job_id],
    )
    asked = " ".join((rows[0]["text"] or "").split())
    if len(asked) > QUOTED:
        asked = f"{asked[: QUOTED - 1].rstrip()}…"
    asked = _MARKED.sub(r"\\\1", asked)
    which = f" for “{asked}”" if asked else ""
    return f"The task in the background{which} failed too.", rows[0]["error"] or None


def text_of(output: Any) -> str:
    """Return what a task's output says to a person, as Markdown: its text, and under it the sources it rests on."""
    text = answer.text(output)
    if not text:
        return f"```json\n{json.dumps(output, ensure_ascii=False, indent=2)}\n```"
    read = answer.read(output)
    sources = [_source(source) for source in read.sources] if read is not None else []
    return "\n\n".join([text, "**Sources**", "\n".join(sources)]) if sources else text


def _source(source: answer.Source) -> str:
    title = _MARKED.sub(r"\\\1", " ".join(source.title.split()))
    url = source.url.replace("<", "%3C").replace(">", "%3E")
    return f"- \\[{source.number}\\] [{title}](<{url}>)" if url else f"- \\[{source.number}\\] {title}"
