"""One exchange in the database: a message, its reply, and the run that writes it, which stand and fall together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from accounts.problems import NotFound, Unauthenticated
from agents import answer, invoke, text_input
from agents.chat import history, parking, stream
from agents.chat.conversations import channel, lock_person, title_from
from agents.chat.refusals import MessageTooLong, ReplyRunning, TooFast, TooManyReplies
from agents.chat.step_words import TOLD, has_words, words
from agents.payload import bad_input
from agents.registry import EndpointInfo, Registry
from agents.waiting import Waiting, waits_of
from jobs.handlers import Claim, Failed, Succeeded, Transition
from jobs.ids import since, uuid7
from jobs.script import Row, Script, Tell
from jobs.states import ENDED, State
from jobs.submit import submit_script
from jobs.transitions import lock_partition

#: Replies that are written for one person at a time.
MAX_REPLIES = 4
#: Messages of one person in a minute.
MAX_MINUTE = 30
#: Crashes of its process that a reply survives.
MAX_ATTEMPTS = 3
_ACTIVE = "('scheduled', 'blocked', 'queued', 'running', 'waiting')"


def partition(conversation_id: UUID | str) -> str:
    """Return the partition of a conversation's replies: there is one at a time."""
    return f"conversation:{conversation_id}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a person sends: ``client_id`` is theirs, and makes that nothing is sent twice."""

    conversation_id: UUID
    user_id: int
    text: str
    client_id: str
    #: What let them in, a session's key or a token's id: neither may have ended meanwhile. None: just looked at.
    session_key: str | None = None
    token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The run that answers a message. ``claim`` is None where the message had been sent before.

    ``text`` is what the run answers: what was said the first time.
    """

    run_id: UUID
    message_id: UUID
    text: str
    claim: Claim | None


def begin(said: Said, known: Registry, worker_id: UUID) -> Script[Begun]:
    """Write a message and the run that answers it, claimed by this process; or find what an earlier try wrote.

    Raises:
        Problem: it is refused, and nothing is written.
        HeldBack, NotLeased: as `submit_script`.
    """
    # One after the other for each person: their limits hold however many tabs they have. Then locks in the order of a
    # run that ends: its partition, its job, the conversation.
    yield from lock_person(said.user_id)
    yield from lock_partition(partition(said.conversation_id))
    row = yield from _look(said)
    if row["earlier"] is not None:
        return Begun(row["earlier"], row["earlier_message"], row["earlier_text"], None)
    found = invoke.find(known, row["endpoint"], entrance="chat")
    _refuse(said, row)
    given = _input(known, found, said.text)
    message_id, reply_id = uuid7(), uuid7()

    def insert(job_id: UUID) -> Script[None]:
        yield from invoke.insert_run(job_id, found, given, said.user_id, {})
        yield (
            "WITH conversation AS (UPDATE agents_conversation SET updated_at = now(),"
            " title = CASE WHEN title = '' THEN %(title)s ELSE title END WHERE id = %(conversation)s)"
            " INSERT INTO agents_message (id, conversation_id, place, role, text, status, run_id, client_id, seq)"
            " VALUES (%(asked)s, %(conversation)s, %(place)s, 'user', %(text)s, 'done', %(run)s, %(client)s, 0),"
            " (%(reply)s, %(conversation)s, %(place)s + 1, 'assistant', '', 'writing', %(run)s, NULL, 0)",
            {
                "title": title_from(said.text),
                "asked": message_id,
                "reply": reply_id,
                "conversation": said.conversation_id,
                "place": row["last"] + 1,
                "text": said.text,
                "run": job_id,
                "client": said.client_id,
            },
        )

    made = yield from submit_script(
        invoke.submission(
            found,
            said.user_id,
            payload={"conversation": str(said.conversation_id), "message": str(reply_id)},
            partition_key=partition(said.conversation_id),
            max_attempts=MAX_ATTEMPTS,
            with_job=insert,
            claimed_by=worker_id,
            is_locked=True,
        )
    )
    return Begun(made.job_id, reply_id, said.text, made.claim)


#: The reply that the conversation ``c`` has to a message of that ``client_id``, and what it answers.
_EARLIER = (
    "SELECT reply.run_id, reply.id, asked.text FROM agents_message asked"
    " JOIN agents_message reply ON reply.run_id = asked.run_id AND reply.role = 'assistant'"
    " WHERE asked.conversation_id = c.id AND asked.client_id = %(client)s LIMIT 1"
)


def sent_before(said: Said) -> Script[Begun | None]:
    """Return what an earlier try of a message began; None if there was none, or if the conversation is not theirs."""
    rows = yield (
        f"SELECT earlier.* FROM agents_conversation c CROSS JOIN LATERAL ({_EARLIER}) earlier"
        " WHERE c.id = %(conversation)s AND c.user_id = %(user)s",
        {"conversation": said.conversation_id, "user": said.user_id, "client": said.client_id},
    )
    return Begun(rows[0]["run_id"], rows[0]["id"], rows[0]["text"], None) if rows else None


def _look(said: Said) -> Script[dict[str, Any]]:
    """Lock the conversation and return what decides, as it is once nobody else adds to it."""
    locked = yield (
        "SELECT (%(session)s::text IS NULL OR EXISTS (SELECT 1 FROM django_session WHERE session_key = %(session)s"
        "   AND expire_date > now())) AND (%(token)s::bigint IS NULL OR EXISTS (SELECT 1 FROM accounts_apitoken"
        "   WHERE id = %(token)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())))"
        " AND EXISTS (SELECT 1 FROM auth_user WHERE id = c.user_id AND is_active) AS is_known"
        " FROM agents_conversation c WHERE id = %(conversation)s AND user_id = %(user)s FOR NO KEY UPDATE",
        {
            "session": said.session_key,
            "token": said.token_id,
            "conversation": said.conversation_id,
            "user": said.user_id,
        },
    )
    if not locked:
        raise NotFound("There is no such conversation, or it is not yours.")
    if not locked[0]["is_known"]:
        raise Unauthenticated("You are signed out. Sign in again.")
    rows = yield (
        "SELECT e.name AS endpoint, earlier.run_id AS earlier, earlier.id AS earlier_message,"
        " earlier.text AS earlier_text,"
        " coalesce((SELECT max(place) FROM agents_message WHERE conversation_id = c.id), 0) AS last,"
        f" (SELECT state FROM jobs_job WHERE partition_key = %(partition)s AND state IN {_ACTIVE} LIMIT 1) AS busy,"
        " lately.running, lately.sent, lately.oldest"
        " FROM agents_conversation c JOIN agents_endpoint e ON e.id = c.endpoint_id"
        f" LEFT JOIN LATERAL ({_EARLIER}) earlier ON true"
        # Ids are times: no reply is written for longer than a quarter of an hour, but for its waits, and one that waits
        # takes nobody's place. The person's newest jobs, by their index: a planner that saw the time would rather read
        # everybody's.
        " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE state IN ('queued', 'running')) AS running,"
        "   count(*) FILTER (WHERE id >= %(minute)s) AS sent,"
        "   extract(epoch FROM now() - min(created_at) FILTER (WHERE id >= %(minute)s)) AS oldest"
        "   FROM (SELECT id, state, created_at FROM jobs_job WHERE user_id = %(user)s AND home_lane = 'chat'"
        "     AND id >= (SELECT %(quarter)s::uuid) ORDER BY id DESC LIMIT 1000) newest) lately"
        " WHERE c.id = %(conversation)s",
        {
            "conversation": said.conversation_id,
            "user": said.user_id,
            "client": said.client_id,
            "partition": partition(said.conversation_id),
            "minute": since(60),
            "quarter": since(900),
        },
    )
    return rows[0]


def _refuse(said: Said, row: dict[str, Any]) -> None:
    if row["busy"] == State.WAITING:
        raise ReplyRunning("The last answer in this conversation waits, and goes on by itself. Stop it to go on now.")
    if row["busy"]:
        raise ReplyRunning("A reply is still being written in this conversation. Stop it, or wait for its end.")
    if row["running"] >= MAX_REPLIES:
        raise TooManyReplies(f"{row['running']} replies are being written for you. Wait for one of them, or stop one.")
    if row["sent"] >= MAX_MINUTE:
        wait_s = max(1, math.ceil(60 - float(row["oldest"])))
        raise TooFast(
            f"You sent {row['sent']} messages in a minute. Try again in {wait_s} s.",
            headers={"Retry-After": str(wait_s)},
            retry_after_s=wait_s,
        )


def check_text(text: Any) -> str:
    """Return a message that may be sent.

    Raises:
        BadInput: it is empty or no text.
        MessageTooLong: no endpoint takes so much.
    """
    if not isinstance(text, str) or not text.strip():
        raise bad_input(("text",), "write a message")
    _check_length(text, text_input.LONGEST)
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _input(known: Registry, endpoint: EndpointInfo, text: str) -> Any:
    """Return the message as the endpoint takes it: as a text, or as its `message`."""
    _check_length(text, endpoint.longest_message)
    given = text_input.as_input(endpoint.input_validator, text, text_input.MESSAGE)
    if given is None:
        given = {"message": text}  # what is wrong with it, the check tells
    invoke.check(known, endpoint, given)
    return given


def _check_length(text: str, longest: int) -> None:
    if len(text) > longest:
        raise MessageTooLong(f"The message has {len(text):,} characters; {longest:,} are the most.", max=longest)


# --- while it is written -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """How far one claim of a reply is."""

    claim: Claim
    message_id: UUID
    text: str
    seq: int


def save(written: Sequence[Written]) -> Script[None]:
    """Store the text of replies that are being written. One whose claim is over, or that has ended, is left alone."""
    # What is written here is written again in a second: nobody needs to wait for the disk, least of all a reply that
    # ends meanwhile.
    yield "SET LOCAL synchronous_commit = off", []
    yield (
        "UPDATE agents_message m SET text = w.text, seq = w.seq"
        " FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::text[], %s::bigint[])"
        " AS w(job, message, fence, text, seq)"
        " JOIN jobs_job j ON j.id = w.job AND j.fence = w.fence AND j.state = 'running'"
        " WHERE m.id = w.message AND m.seq < w.seq AND m.status = 'writing'",
        [
            [one.claim.job_id for one in written],
            [one.message_id for one in written],
            [one.claim.fence for one in written],
            [one.text for one in written],
            [one.seq for one in written],
        ],
    )


def forgive(claims: Sequence[Claim]) -> Script[None]:
    """Start the count of crashes anew of replies that have got on: progress is not failure."""
    yield (
        "UPDATE jobs_job j SET crashes = 0 FROM unnest(%s::uuid[], %s::bigint[]) AS w(job, fence)"
        " WHERE j.id = w.job AND j.fence = w.fence AND j.state = 'running'",
        [[claim.job_id for claim in claims], [claim.fence for claim in claims]],
    )


def run_input(claim: Claim, given: Any) -> Script[Any]:
    """Return what the program of a reply gets: the message, and what was said before it."""
    rows = yield "SELECT conversation_id, place FROM agents_message WHERE id = %s", [claim.payload["message"]]
    if not rows:
        return given
    before = yield from history.read(rows[0]["conversation_id"], rows[0]["place"] - 1)
    if not before:
        return given
    message = given if isinstance(given, str) else given["message"]
    return {"message": message, "history": before}


# --- when it changes ---------------------------------------------------------------------------------------------

_STATUS = {State.SUCCEEDED: "done", State.CANCELLED: "stopped", State.DEAD: "failed", State.DISCARDED: "failed"}


def on_transition(change: Transition) -> Script[None]:
    """Keep a reply's message in step with its run, in the same transaction."""
    if change.new in ENDED:
        if change.old not in ENDED:
            yield from _end(change)
    elif change.old in ENDED:
        yield "UPDATE agents_message SET status = 'writing', problem = NULL WHERE id = %s", [change.payload["message"]]
    elif change.new is State.WAITING:
        yield from parking.on_parked(change)
    elif change.old is State.WAITING:
        yield from parking.on_left(change)


def _end(change: Transition) -> Script[None]:
    own = stream.running(change.job_id)
    text, seq = (own.text, own.close()) if own is not None else (None, None)
    if not text and isinstance(change.outcome, Succeeded):
        text = text_of(change.outcome.result)
    problem = change.outcome.problem if isinstance(change.outcome, Failed) else None
    rows = yield (
        "UPDATE agents_message SET status = %(status)s,"
        # What an earlier claim wrote stays where the last one did not come so far.
        " text = CASE WHEN %(behind)s AND length(text) > length(%(text)s::text) THEN text"
        "   ELSE coalesce(%(text)s, text) END,"
        # Where nobody here writes it, others may have heard more than was stored: of any claim so far.
        " seq = greatest(seq + 1, coalesce(%(seq)s, (SELECT fence FROM jobs_job WHERE id = %(run)s) * %(seqs)s)),"
        " problem = CASE WHEN %(failed)s THEN coalesce(%(problem)s,"
        "   (SELECT error FROM jobs_job WHERE id = %(run)s)) END"
        " WHERE id = %(id)s RETURNING conversation_id, place",
        {
            "id": change.payload["message"],
            "status": _STATUS[change.new],
            "failed": _STATUS[change.new] == "failed",
            "text": text,
            "behind": own is not None and not own.has_caught_up and change.new is not State.SUCCEEDED,
            "seq": seq,
            "seqs": stream.CLAIM_SEQS,
            "problem": Jsonb(problem) if problem is not None else None,
            "run": change.job_id,
        },
    )
    if not rows:
        return  # the conversation was deleted
    if own is not None and own.first_token_ms is not None:
        yield "UPDATE agents_run SET first_token_ms = %s WHERE job_id = %s", [own.first_token_ms, change.job_id]
    if change.new is State.SUCCEEDED:
        yield from _keep_summary(change.job_id, rows[0])
    if own is None:
        # Nobody here is writing it: whoever shows it reads how it ended.
        yield Tell(channel(rows[0]["conversation_id"]), {"type": "ended", "run_id": str(change.job_id)})


def _keep_summary(run_id: UUID, message: dict[str, Any]) -> Script[None]:
    found = yield (
        "SELECT output FROM agents_step WHERE run_id = %s AND kind = 'emit' AND name = 'conversation.compacted'"
        " ORDER BY id DESC LIMIT 1",
        [run_id],
    )
    if found:
        told = found[0]["output"]
        yield from history.keep_summary(
            message["conversation_id"], message["place"] - 1, told["messages"], told["text"]
        )


def text_of(output: Any) -> str:
    """Return what an output says to a person: its text, else its JSON."""
    return answer.text(output) or json.dumps(output, ensure_ascii=False, indent=2)


# --- what is there ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as the database has it."""

    run_id: UUID
    message_id: UUID
    conversation_id: UUID
    state: State
    status: str
    text: str
    seq: int
    problem: dict[str, Any] | None
    usage: dict[str, Any]
    steps: list[dict[str, Any]]
    #: Since the message was sent, or since its last wait was over.
    elapsed_ms: int
    #: What its run is parked for.
    waits: list[Waiting]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.status != "writing"

    @property
    def is_parked(self) -> bool:
        """Whether nothing comes until what it waits for does."""
        return not self.has_ended and self.state is State.WAITING


def read(run_id: UUID, conversation_id: UUID) -> Script[Reply | None]:
    """Return the reply of a run in that conversation; None if there is none."""
    rows = yield (
        "SELECT m.id, m.text, m.seq, m.status, m.problem, j.state, j.error,"
        " r.input_tokens, r.output_tokens, r.cost_usd, r.cost_known,"
        " (extract(epoch FROM now() - coalesce((SELECT max(at) FROM jobs_jobevent e WHERE e.job_id = j.id"
        "   AND e.kind = 'state' AND e.old = 'waiting'), j.created_at)) * 1000)::bigint AS elapsed_ms"
        " FROM agents_message m JOIN jobs_job j ON j.id = m.run_id JOIN agents_run r ON r.job_id = j.id"
        " WHERE m.run_id = %s AND m.conversation_id = %s AND m.role = 'assistant' AND j.home_lane = 'chat'",
        [run_id, conversation_id],
    )
    if not rows:
        return None
    row = rows[0]
    steps = yield from steps_of(run_id)
    waits = (yield from waits_of([run_id])) if row["state"] == State.WAITING else {}
    return Reply(
        run_id=run_id,
        message_id=row["id"],
        conversation_id=conversation_id,
        state=State(row["state"]),
        # A job that was given up leaves its message as it was.
        status="failed" if row["status"] == "writing" and row["state"] in ENDED else row["status"],
        text=row["text"],
        seq=row["seq"],
        problem=row["problem"] or row["error"],
        usage={
            "input_tokens": row["input_tokens"],
            "output_tokens": row["output_tokens"],
            "cost_usd": float(row["cost_usd"]) if row["cost_known"] else None,
        },
        steps=steps,
        elapsed_ms=row["elapsed_ms"],
        waits=waits.get(run_id, []),
    )


def last_run(conversation_id: UUID) -> Script[UUID | None]:
    """Return the run of a conversation's last reply."""
    rows = yield (
        "SELECT run_id FROM agents_message WHERE conversation_id = %s AND role = 'assistant'"
        " ORDER BY place DESC LIMIT 1",
        [conversation_id],
    )
    return rows[0]["run_id"] if rows else None


def message(message_id: UUID) -> Script[dict[str, Any] | None]:
    """Return what one side said: role and text."""
    rows = yield "SELECT role, text FROM agents_message WHERE id = %s", [message_id]
    return rows[0] if rows else None


def steps_of(run_id: UUID) -> Script[list[dict[str, Any]]]:
    """Return the steps of a run as frames tell them, the newest `stream.MAX_STEPS`, oldest first."""
    rows = yield (
        "SELECT reason, data, EXISTS (SELECT 1 FROM jobs_wait w WHERE w.job_id = e.job_id AND w.kind = 'person'"
        "   AND w.key = data ->> 'key') AS is_decision, s.input AS given, s.shown"
        " FROM jobs_jobevent e LEFT JOIN LATERAL (SELECT s.input, " + TOLD.format("s.output") + " AS shown"
        "   FROM agents_step s JOIN agents_run r ON r.job_id = s.run_id AND r.journal_epoch = s.epoch"
        "   WHERE s.run_id = e.job_id AND s.key = e.data ->> 'key' AND s.kind IN ('tool', 'step')) s ON true"
        " WHERE job_id = %s AND kind = 'step' AND (data ->> 'final')::boolean"
        " AND data ->> 'kind' NOT IN ('value', 'emit') ORDER BY id DESC LIMIT %s",
        [run_id, stream.MAX_STEPS],
    )
    return [
        {
            **_words(row),
            "key": row["data"]["key"],
            "name": row["data"]["name"],
            "kind": row["data"]["kind"],
            "status": row["reason"],
            "summary": row["data"]["summary"],
            "ms": row["data"]["ms"],
        }
        for row in reversed(rows)
    ]


def _words(row: Row) -> dict[str, str]:
    """Return what a step is called, as it was told when it happened; nothing where its name and summary say it."""
    if row["is_decision"]:
        return {"words": row["data"]["summary"]}
    name, kind = row["data"]["name"], row["data"]["kind"]
    if row["reason"] != "finished" or row["shown"] is None or not has_words(kind, name):
        return {}
    return {"words": words(name, row["given"], row["shown"])}
