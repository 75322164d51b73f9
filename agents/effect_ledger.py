"""The ledger of effects in PostgreSQL."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from agents.runtime.effects import Effect
from agents.runtime.plain import plain
from agents.runtime.ports import Superseded, ToolContext
from agents.runtime.types import ToolCall
from jobs.claim import StaleFence, fenced
from jobs.handlers import Claim
from jobs.runner import persist
from jobs.script import Row, Script


class RunLedger:
    """The effects of one claim of a run.

    To begin one takes the fence: a stale owner must not act. How one ended is told without it: a stale owner may still
    tell the truth.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    async def look(self, keys: list[str]) -> dict[str, Effect]:
        """Return what is known of calls; nothing of those never begun."""

        def read() -> Script[list[Row]]:
            return (yield "SELECT key, state, attempt, fence, result FROM agents_effect WHERE key = ANY(%s)", [keys])

        rows: list[Row] = await persist(read)
        return {row["key"]: self._as_effect(row) for row in rows}

    async def begin(self, call: ToolCall, context: ToolContext, *, idempotent: bool) -> Effect:
        """Write that the call begins, unless it is done or given up; return where it then stands.

        Raises:
            Superseded: another owner has the run.
        """

        def write() -> Script[list[Row]]:
            yield from fenced(self._claim)
            return (
                yield (
                    "INSERT INTO agents_effect AS e (key, run_id, step_key, tool, arguments, idempotent, state,"
                    " attempt, fence, approval_id, resolved_by, note)"
                    " VALUES (%s, %s, %s, %s, %s, %s, 'started', 1, %s, %s, '', '')"
                    " ON CONFLICT (key) DO UPDATE SET"
                    "  state = CASE WHEN e.state IN ('done', 'given-up') THEN e.state ELSE 'started' END,"
                    "  attempt = e.attempt + (e.state NOT IN ('done', 'given-up') AND e.fence <> excluded.fence)::int,"
                    "  fence = CASE WHEN e.state IN ('done', 'given-up') THEN e.fence ELSE excluded.fence END"
                    " RETURNING key, state, attempt, fence, result",
                    [
                        context.idempotency_key,
                        self._claim.job_id,
                        context.step_key,
                        call.tool,
                        Jsonb(plain(call.arguments)),
                        idempotent,
                        self._claim.fence,
                        context.approval_id or None,
                    ],
                )
            )

        try:
            rows: list[Row] = await persist(write)
        except StaleFence as error:
            raise Superseded(str(error)) from None
        found = self._as_effect(rows[0])
        return found if found.state in ("done", "given-up") else Effect("fresh", None, found.attempt)

    async def end(self, key: str, result: Any, *, known: bool) -> None:
        """Write how it ended. What a person has said of it meanwhile stands."""

        def write() -> Script[None]:
            yield (
                "UPDATE agents_effect SET state = %s, result = %s, finished_at = now()"
                " WHERE key = %s AND state IN ('started', 'unknown')",
                ["done" if known else "unknown", Jsonb(result) if known else None, key],
            )

        await persist(write)

    def _as_effect(self, row: Row) -> Effect:
        state = row["state"]
        if state == "done":
            return Effect("done", row["result"], row["attempt"])
        if state == "given-up":
            return Effect("given-up", None, row["attempt"])
        return Effect("fresh" if state == "again" else "interrupted", None, row["attempt"])
