"""The ledger of effects in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from agents import parked
from agents.runtime.effects import Effect, Used, wait_of
from agents.runtime.plain import plain
from agents.runtime.ports import Superseded, ToolContext
from agents.runtime.types import ToolCall
from audit import trail
from audit.trail import SYSTEM
from jobs.claim import StaleFence, fenced
from jobs.handlers import Claim, WaitFor
from jobs.runner import persist
from jobs.script import Row, Script
from jobs.waits import resolve

#: How a wait for a person's word on an effect begins.
PREFIX = "effect:"
#: What resolves such a wait where nobody had to say anything.
TOLD = {"finding": "told"}
_COLUMNS = "id, key, state, attempt, fence, result, approval_id, tool"


class RunLedger:
    """The effects of one claim of a run. Only calls with effects, and those that a decision let run, are written.

    To begin one takes the fence: a stale owner must not act. How one ended is told without it: a stale owner may still
    tell the truth. Then the question that a person was asked meanwhile settles by itself.
    """

    def __init__(self, claim: Claim, epoch: int = 1) -> None:
        self._claim = claim
        self._epoch = epoch
        self._has_begun = False

    @property
    def epoch(self) -> int:
        """Raised by a redrive that repeats what was done."""
        return self._epoch

    async def look(self, keys: list[str]) -> dict[str, Effect]:
        """Return what is known of calls; nothing of those never begun."""
        if self._claim.fence == 1 and not self._has_begun:
            return {}  # nobody had the run before

        def read() -> Script[list[Row]]:
            return (yield f"SELECT {_COLUMNS} FROM agents_effect WHERE key = ANY(%s)", [keys])

        rows: list[Row] = await persist(read)
        return {row["key"]: _as_effect(row) for row in rows}

    async def used(self) -> list[Used]:
        """Return the calls of this run that were begun under decisions."""
        if self._claim.fence == 1:
            return []

        def read() -> Script[list[Row]]:
            return (
                yield (
                    "SELECT approval_id, step_key, tool, arguments FROM agents_effect"
                    " WHERE run_id = %s AND approval_id IS NOT NULL ORDER BY id",
                    [self._claim.job_id],
                )
            )

        rows: list[Row] = await persist(read)
        return [Used(str(row["approval_id"]), row["step_key"], row["tool"], row["arguments"]) for row in rows]

    async def begin(self, call: ToolCall, context: ToolContext, *, idempotent: bool) -> Effect:
        """Write that the call begins, if it may; return where it then stands: `fresh`, it runs now.

        Raises:
            Superseded: another owner has the run.
        """
        self._has_begun = True
        try:
            found: Effect = await persist(lambda: self._begin(call, context, idempotent))
        except StaleFence as error:
            raise Superseded(str(error)) from None
        return found

    def _begin(self, call: ToolCall, context: ToolContext, idempotent: bool) -> Script[Effect]:
        key, fence = context.idempotency_key, self._claim.fence
        yield from fenced(self._claim)
        rows = yield (
            "INSERT INTO agents_effect (key, run_id, step_key, tool, arguments, idempotent, state, attempt, fence,"
            " approval_id, resolved_by, note) VALUES (%s, %s, %s, %s, %s, %s, 'started', 1, %s, %s, '', '')"
            f" ON CONFLICT (key) DO NOTHING RETURNING {_COLUMNS}",
            [
                key,
                self._claim.job_id,
                context.step_key,
                call.tool,
                Jsonb(plain(call.arguments)),
                idempotent,
                fence,
                context.approval_id or None,
            ],
        )
        if not rows:
            (row,) = yield f"SELECT {_COLUMNS} FROM agents_effect WHERE key = %s FOR UPDATE", [key]
            if row["state"] == "started" and row["fence"] == fence:
                return Effect("fresh", None, row["attempt"])  # the commit whose answer was lost had been made
            found = _as_effect(row)
            if found.state != "fresh" and not (found.state == "interrupted" and idempotent):
                return found
            rows = yield (
                "UPDATE agents_effect SET state = 'started', attempt = attempt + 1, fence = %s, result = NULL,"
                " finished_at = NULL, approval_id = coalesce(%s, approval_id) WHERE id = %s"
                f" RETURNING {_COLUMNS}",
                [fence, context.approval_id or None, row["id"]],
            )
        yield from self._audit("begin", rows[0], attempt=rows[0]["attempt"])
        return Effect("fresh", None, rows[0]["attempt"])

    async def end(self, key: str, result: Any, *, known: bool) -> None:
        """Write how it ended. What a person has said of it meanwhile stands, unless they want it done again."""
        asked: str | None = await persist(lambda: self._end(key, result, known))
        if asked is not None:
            await persist(lambda: settle(self._claim.job_id, asked))

    def _end(self, key: str, result: Any, known: bool) -> Script[str | None]:
        """Return the key of the wait in which a person is being asked, if one is."""
        # The fence says that it is still our attempt of which something is to be told.
        rows = yield (
            "UPDATE agents_effect SET state = %s, result = %s, finished_at = now() WHERE key = %s AND fence = %s"
            f" AND state = ANY(%s) RETURNING {_COLUMNS}",
            [
                "done" if known else "unknown",
                Jsonb(result) if known else None,
                key,
                self._claim.fence,
                ["started", "unknown", "again"] if known else ["started"],
            ],
        )
        if not rows:
            return None
        yield from self._audit("end", rows[0], ok=bool(result["ok"]) if known else None)
        if not known:
            return None
        # A statement of its own: it sees a question that came while the one before waited for the row.
        wait_key = wait_of(key, _as_effect(rows[0]))
        waits = yield (
            "SELECT 1 FROM jobs_wait WHERE job_id = %s AND key = %s AND resolved_at IS NULL",
            [self._claim.job_id, wait_key],
        )
        return wait_key if waits else None

    def _audit(self, what: str, row: Row, **more: Any) -> Script[None]:
        """Write into the trail what a decision let run, and what came of it."""
        if row["approval_id"] is not None:
            after = {"tool": row["tool"], "effect": row["id"], "run": str(self._claim.job_id), **more}
            yield trail.statement(SYSTEM, f"effect.{what}", "approval", row["approval_id"], after=after)


def settle(run_id: UUID, wait_key: str) -> Script[None]:
    """Resolve what a person was asked about an effect that is known by now, and let the run go on."""
    if (yield from resolve(run_id, wait_key, TOLD)):
        yield from parked.hooks.on_told(run_id, wait_key)


def still_unknown(run_id: UUID, waits: Sequence[WaitFor]) -> Script[list[WaitFor]]:
    """Return the waits of a run that parks without those for effects that were told of meanwhile: these are over.

    Holds the effects until the run has parked: whoever tells of one then finds the question.
    """
    keys = {wait.data["effect"]: wait.key for wait in waits if wait.key.startswith(PREFIX) and wait.data}
    if not keys:
        return list(waits)
    rows = yield (
        "SELECT key, state FROM agents_effect WHERE key = ANY(%s) ORDER BY id FOR SHARE",
        [list(keys)],
    )
    told = [keys[row["key"]] for row in rows if row["state"] not in ("started", "unknown")]
    if told:
        yield (
            "UPDATE jobs_wait SET resolved_at = now(), result = %s WHERE job_id = %s AND key = ANY(%s)"
            " AND resolved_at IS NULL",
            [Jsonb(TOLD), run_id, told],
        )
    return [wait for wait in waits if wait.key not in told]


def try_failed_again(run_id: UUID, step_keys: Sequence[str] | None = None) -> Script[None]:
    """Let effects that are known to have failed be tried again: those of these steps, or all of a run's.

    What was done stays done, what was given up stays so, and of what nobody knows a person is asked as before.
    """
    yield (
        "UPDATE agents_effect SET state = 'again' WHERE run_id = %s AND state = 'done'"
        " AND result ->> 'ok' = 'false' AND (%s::text[] IS NULL OR step_key = ANY(%s))",
        [run_id, step_keys, step_keys],
    )


def _as_effect(row: Row) -> Effect:
    state = row["state"]
    if state == "done":
        return Effect("done", row["result"], row["attempt"])
    if state == "given-up":
        return Effect("given-up", None, row["attempt"])
    return Effect("fresh" if state == "again" else "interrupted", None, row["attempt"])
