"""A reply whose run waits: it holds no process and no frame of its own goes out until the wait is over."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from agents.chat import stream
from agents.chat.conversations import channel
from jobs.handlers import Transition
from jobs.script import Script, Tell


def on_parked(change: Transition) -> Script[None]:
    """Store what there is of a reply, and the number of the frame that says that it waits. With its run's parking."""
    own = stream.running(change.job_id)
    text, seq = (own.text, own.park()) if own is not None else (None, None)
    yield (
        "UPDATE agents_message SET text = coalesce(%(text)s, text),"
        " seq = greatest(seq + 1, coalesce(%(seq)s, (SELECT fence FROM jobs_job WHERE id = %(run)s) * %(seqs)s))"
        " WHERE id = %(id)s",
        {
            "id": change.payload["message"],
            "text": text,
            "seq": seq,
            "run": change.job_id,
            "seqs": stream.CLAIM_SEQS,
        },
    )
    if own is not None and own.first_token_ms is not None:
        yield "UPDATE agents_run SET first_token_ms = %s WHERE job_id = %s", [own.first_token_ms, change.job_id]
    if own is None:
        yield _news(change)


def on_left(change: Transition) -> Script[None]:
    """Let whoever shows a reply know that its wait is over, before some process goes on with it."""
    yield _news(change)


def _news(change: Transition) -> Tell:
    return Tell(channel(change.payload["conversation"]), {"type": "changed", "run_id": str(change.job_id)})


def no_longer_parked(run_ids: Sequence[UUID]) -> Script[set[UUID]]:
    """Return those of these runs that wait no more."""
    rows = yield "SELECT id FROM jobs_job WHERE id = ANY(%s) AND state = 'waiting'", [list(run_ids)]
    return set(run_ids) - {row["id"] for row in rows}


def parked_run(conversation_id: UUID) -> Script[UUID | None]:
    """Return the run of a conversation's last reply if it waits."""
    rows = yield (
        "SELECT last.run_id FROM (SELECT run_id FROM agents_message WHERE conversation_id = %s AND role = 'assistant'"
        " ORDER BY place DESC LIMIT 1) last JOIN jobs_job j ON j.id = last.run_id AND j.state = 'waiting'",
        [conversation_id],
    )
    return rows[0]["run_id"] if rows else None
