"""The values that a program, the model port and the tools exchange. Plain data: each round-trips through JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """A frozen value; `model_dump(mode="json")` and `model_validate` are its two directions."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Value):
    """A tool the model asks for."""

    id: str
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolResult(Value):
    """What a call came to. A failed call is a result that the model reads, not a crash of the run."""

    call_id: str
    tool: str
    ok: bool = True
    content: Any = None
    #: Of a failure: a stable slug (timeout, bad-arguments, refused, failed …).
    error: str | None = None


class Message(Value):
    """One message of a conversation with a model."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


class Usage(Value):
    """Tokens and money of one model request. ``cost_usd`` is None when the model's price is not known."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = Decimal(0)

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_usd=(self.cost_usd or Decimal(0)) + (other.cost_usd or Decimal(0)) if known else None,
        )


class Reply(Value):
    """What a model answered: text, calls it asks for, or data of the schema it was given."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    data: Any = None
    usage: Usage = Usage()
    #: The model that answered, as provider:name.
    model: str = ""
    finish: Literal["stop", "length", "tool_calls", "content_filter", "error"] = "stop"
    #: Set by `ctx.compose`: the text came before tool calls, was shown to nobody and is no part of the answer.
    preamble: bool = False

    def as_message(self) -> Message:
        """Return the reply as the assistant's message of the next request."""
        return Message(role="assistant", text=self.text, calls=self.calls)

    def as_output(self) -> Any:
        """Return the reply as a run's output: its data, or `{"text"}`, with `"truncated": true` if it was cut off."""
        if self.data is not None:
            return self.data
        return {"text": self.text, "truncated": True} if self.finish == "length" else {"text": self.text}


class ToolSpec(Value):
    """A tool as a model sees it."""

    name: str
    description: str
    #: JSON schema of its arguments (an object).
    parameters: dict[str, Any]


class ModelCall(Value):
    """One request to a model, before any provider's dialect."""

    #: provider:name, already chosen by the agent's policy and the budget.
    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    #: JSON schema of the wanted data, or None for text.
    output: dict[str, Any] | None = None
    #: Upper bound of the reply, tokens.
    max_tokens: int
    timeout_s: float = 120.0


class Budget(Value):
    """What one invocation may use. None means: as the agent and the mode allow."""

    latency_budget_ms: int | None = Field(default=None, gt=0)
    cost_cap_usd: Decimal | None = Field(default=None, ge=0)
    max_turns: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)


class Limits(Value):
    """What a run may use in all: of the agent's limits, the mode's ceiling and the caller's budget the lowest each."""

    #: Model replies.
    max_turns: int = Field(default=8, gt=0)
    #: Output tokens of all replies together.
    max_tokens: int = Field(default=4000, gt=0)
    #: Wall clock of one claim, seconds.
    wall_clock_s: float = Field(default=600, gt=0)
    cost_cap_usd: Decimal | None = None
    #: True when the caller set the cap: then a model without a known price is refused.
    cost_cap_explicit: bool = False
    #: What is left of the caller's latency budget picks the cheaper, faster model; None: no such budget.
    latency_budget_ms: int | None = None
    #: From so many tokens of conversation on its oldest part is summed up.
    history_tokens: int = Field(default=12_000, gt=0)


class Models(Value):
    """The models an agent may use, each as provider:name."""

    default: str
    #: Used when the budget is tight.
    downshift: str | None = None
    #: Tried in order after transient errors of the one before.
    fallback: tuple[str, ...] = ()


class AgentSpec(Value):
    """One version of an agent, as the runtime needs it."""

    name: str
    version: int
    instructions: str
    program: str
    models: Models
    tools: tuple[str, ...] = ()
    limits: Limits = Limits()
    #: buffered: an answer is judged, whole, before its first token leaves.
    verify: Literal["none", "buffered"] = "none"
