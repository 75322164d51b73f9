"""What decided plans let a run do, and how much of that it has used up."""

from __future__ import annotations

from collections import defaultdict

from agents.runtime.effects import Ledger
from agents.runtime.plans import Decided, call_key
from agents.runtime.recorder import Recorder
from agents.runtime.types import ToolCall


class Permits:
    """By call, the decisions that let it run: once for each time that it stands in a decided plan.

    Which step has used a decision up is in the ledger. So it is the same one in every replay, though the branches of a
    `gather` may come for it in another order each time.
    """

    def __init__(self, ledger: Ledger, recorder: Recorder) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._free: defaultdict[str, list[str]] = defaultdict(list)
        #: By call and step, the decision under which the step was begun in an earlier claim; those yet to be reached.
        self._used: dict[str, dict[str, str]] | None = None

    def grant(self, decided: Decided) -> None:
        """Let the calls of an approved plan run."""
        for call in decided.plan.calls:
            self._free[call_key(call.tool, call.arguments)].append(decided.approval_id)

    async def take(self, call: ToolCall, step_key: str) -> str:
        """Return the decision that lets the call run as that step, and use it up; "" if there is none."""
        if not self._free:
            return ""
        key = call_key(call.tool, call.arguments)
        if not self._free.get(key):
            return ""
        if self._used is None:
            used: dict[str, dict[str, str]] = {}
            for one in await self._recorder.guarded(self._ledger.used()):
                used.setdefault(call_key(one.tool, one.arguments), {})[one.step_key] = one.approval_id
            self._used = used
        # Another line may have taken it meanwhile: from here on nothing is awaited.
        free, others = self._free[key], self._used.get(key, {})
        own = others.pop(step_key, "")
        if own in free:
            free.remove(own)
            return own
        left = list(free)
        for other in others.values():
            if other in left:
                left.remove(other)
        if not left:
            return ""
        free.remove(left[0])
        return left[0]
