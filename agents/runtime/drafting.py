"""Making a request out of what a program asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from agents.runtime.branches import Gate
from agents.runtime.plain import plain
from agents.runtime.ports import ToolBox
from agents.runtime.types import AgentSpec, Message, ModelCall, ToolSpec

Ask = str | Message | Sequence[Message]
Choice = Literal["auto", "none", "required"]


class Drafter:
    """Drafts the requests of one run. Model, bound and time limit are settled when a request is admitted."""

    def __init__(self, agent: AgentSpec, toolbox: ToolBox, gate: Gate, timeout_s: float) -> None:
        self._agent = agent
        self._toolbox = toolbox
        self._gate = gate
        self._timeout_s = timeout_s
        self._specs: tuple[ToolSpec, ...] | None = None

    def draft(
        self,
        ask: Ask,
        tools: bool | Sequence[str],
        choice: Choice = "auto",
        output: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> ModelCall:
        """Return the request, its instructions first. ``timeout_s`` is for one that does not have the usual time.

        Raises:
            Misuse: it asks for tools that the agent does not have, or holds something else than messages.
        """
        messages = self._messages(ask)
        offered = self._offered(tools)
        if not offered and any(message.calls for message in messages):
            # A history with calls in it is only understood along with the tools; it still may not ask for more.
            offered, choice = self._offered(True), "none"
        return ModelCall(
            model=self._agent.models.default,
            messages=messages,
            tools=offered,
            tool_choice=choice,
            output=output,
            max_tokens=1,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
        )

    def _messages(self, ask: Ask) -> tuple[Message, ...]:
        if isinstance(ask, str):
            ask = Message(role="user", text=ask)
        messages = (ask,) if isinstance(ask, Message) else tuple(ask)
        for message in messages:
            if not isinstance(message, Message):
                raise self._gate.misuse(f"A model takes a text or messages, not a {type(message).__name__}.")
        if self._agent.instructions and not (messages and messages[0].role == "system"):
            return (Message(role="system", text=self._agent.instructions), *messages)
        return messages

    def _offered(self, tools: bool | Sequence[str]) -> tuple[ToolSpec, ...]:
        names = self._agent.tools if tools is True else tools or ()
        if not names:
            return ()
        strange = [name for name in names if name not in self._agent.tools]
        if strange:
            raise self._gate.misuse(f"The agent {self._agent.name} has no tool {', '.join(strange)}.")
        if self._specs is None:
            self._specs = self._toolbox.specs(self._agent.tools)
        return tuple(spec for spec in self._specs if spec.name in names)


def identity(draft: ModelCall, max_tokens: int | None) -> dict[str, Any]:
    """Return, plain, what makes two requests the same: not the model, which the budget picks, nor how a tool reads."""
    return {
        "messages": plain([message.model_dump(exclude_defaults=True) for message in draft.messages], "The messages"),
        "tools": [spec.name for spec in draft.tools],
        "tool_choice": draft.tool_choice,
        "output": plain(draft.output, "The schema of the output"),
        "max_tokens": max_tokens,
    }


def outline(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what is worth showing of a request: a conversation grows with each, so only its last message."""
    return {"messages": len(identity["messages"]), "last": identity["messages"][-1:], "tools": identity["tools"]}
