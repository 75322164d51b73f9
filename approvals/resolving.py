"""Saying what became of a call of which nobody knows how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now

from agents.effect_ledger import settle
from agents.models import Effect
from agents.runtime.plain import plain
from agents.runtime.types import ToolResult
from approvals.deciding import close
from approvals.errors import AlreadyDecided, Undecidable
from approvals.locking import locked, refuse_decided, refuse_others
from approvals.models import Approval, Vote
from audit.trail import Actor
from jobs import script
from jobs.actions import note_of
from jobs.waits import resolve

Finding = Literal["happened", "again", "give_up"]
_STATES = {
    "happened": (Effect.State.DONE, Approval.State.APPROVED),
    "again": (Effect.State.AGAIN, Approval.State.APPROVED),
    "give_up": (Effect.State.GIVEN_UP, Approval.State.REJECTED),
}


@dataclass(frozen=True, slots=True)
class ResolveEffect:
    """It happened, do it again, or give it up; then the run goes on."""

    actor: Actor
    finding: Finding
    #: How they know.
    comment: str
    #: What the call came back with, where it happened: the agent reads it. Plain JSON.
    result: Any = None

    def run(self, approval_id: UUID) -> Approval:
        """Resolve.

        Raises:
            UnknownApproval, AlreadyDecided, MayNot, Undecidable: and nothing is changed. It is decided already, too, if
                the worker that made the call has told how it ended after all.
        """
        with transaction.atomic():
            approval, is_told = self._resolve(approval_id)
        if is_told:
            raise AlreadyDecided(
                "The worker that made the call has told how it ended after all, and the run goes on with that.",
                state=Approval.State.SUPERSEDED,
            )
        return approval

    def _resolve(self, approval_id: UUID) -> tuple[Approval, bool]:
        """Resolve, unless it is known by now how the call ended: that stands, and settles the question."""
        user = self.actor.user
        assert isinstance(user, User)
        comment = note_of(self.comment)
        approval = locked(approval_id)
        refuse_others(approval, user)
        refuse_decided(approval)
        if not approval.is_effect or approval.effect_id is None:
            raise Undecidable("This asks for a decision on a plan. Approve it, request changes, or reject it.")
        if not comment:
            raise Undecidable("Say how you know: whoever looks at this run later reads it.")
        effect = Effect.objects.select_for_update().get(pk=approval.effect_id)
        if effect.state not in (Effect.State.STARTED, Effect.State.UNKNOWN):
            script.run(settle(approval.run_id, approval.wait_key))
            return approval, True
        state, closed = _STATES[self.finding]
        effect.state, effect.resolved_by, effect.note = state, user.username, comment
        if state == Effect.State.DONE:
            content = self.result if self.result is not None else comment
            effect.result = plain(ToolResult(call_id="", tool=effect.tool, content=content))
            effect.finished_at = Now()  # the database's clock
        effect.save()
        Vote.objects.create(
            approval=approval, user=user, user_name=user.username, decision=self.finding, comment=comment
        )
        close(approval, self.finding, closed, self.actor, by=[user.username], comment=comment)
        script.run(resolve(approval.run_id, approval.wait_key, {"finding": self.finding}))
        return approval, False
