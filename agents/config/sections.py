"""The sections of `astra.yml` as pydantic models. What is not named here is either not built yet or a mistake."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agents.config.faults import snake

#: Input of an endpoint that declares none: a text, or an object with a message.
DEFAULT_INPUT: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"message": {"type": "string", "minLength": 1}},
            "required": ["message"],
            "additionalProperties": False,
        },
    ]
}


class Section(BaseModel):
    """A mapping with fixed keys, each in camelCase or snake_case."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    #: Keys of the contract whose feature is not built yet. They are refused by name.
    later: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _spell(cls, data: Any) -> Any:
        """Rename the known keys to snake_case; leave unknown ones as written, for the message about them."""
        if not isinstance(data, dict):
            return data
        return {snake(key) if snake(key) in cls.model_fields else key: value for key, value in data.items()}


def _number(value: Any) -> Any:
    """Take a YAML number as an exact decimal: 0.15 means 0.15."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty")
    return value


def _verify(value: Any) -> Any:
    if value == "draft":
        raise ValueError("draft is not supported yet; buffered holds an answer back until it is judged")
    return value


Money = Annotated[Decimal, BeforeValidator(_number), Field(ge=0)]
Text = Annotated[str, AfterValidator(_not_blank)]
Schema = dict[str, Any] | bool


class Model(Section):
    """`models.<alias>`: a provider's model, or another alias, with prices where the price list does not know it."""

    model: Text
    input_usd_per_mtok: Money | None = None
    output_usd_per_mtok: Money | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _both_prices(self) -> Model:
        if (self.input_usd_per_mtok is None) != (self.output_usd_per_mtok is None):
            raise ValueError("give both input_usd_per_mtok and output_usd_per_mtok, or neither")
        return self

    @property
    def price(self) -> tuple[Decimal, Decimal] | None:
        """USD per million input and output tokens, where the file says it."""
        if self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            return None
        return self.input_usd_per_mtok, self.output_usd_per_mtok


class ModelChoice(Section):
    """`agents.<name>.model`: which model, which under a tight budget, which after errors."""

    default: Text
    downshift: Text | None = None
    fallback: list[Text] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"default": data} if isinstance(data, str) else data


class AgentLimits(Section):
    """`agents.<name>.limits`: what one run may use, whoever asks."""

    max_turns: int = Field(default=8, ge=1, le=1000)
    max_tokens: int = Field(default=4000, ge=1, le=10_000_000)
    wall_clock_s: Annotated[float, BeforeValidator(lambda v: float(v) if type(v) is int else v)] = Field(
        default=600.0, gt=0, le=7 * 86_400
    )
    expected_latency_ms: int | None = Field(default=None, ge=1)


class Agent(Section):
    """`agents.<name>`."""

    later: ClassVar[frozenset[str]] = frozenset({"daily_budget_usd", "rubric"})

    version: int = Field(ge=1, le=2_147_483_647)
    instructions: Text
    model: ModelChoice
    program: Text = "loop"
    tools: list[Text] = Field(default_factory=list)
    limits: AgentLimits = Field(default_factory=AgentLimits)
    verify: Annotated[Literal["none", "buffered"], BeforeValidator(_verify)] = "none"


class RequestSize(Section):
    """`endpoints.<name>.request_size`: how much one request may ask for, and how that is counted."""

    max: int = Field(ge=1)
    of: Text | None = None


class Endpoint(Section):
    """`endpoints.<name>`: a public name that binds an agent, its schemas and one mode."""

    later: ClassVar[frozenset[str]] = frozenset({"cron", "timezone", "target"})

    agent: Text
    mode: Text
    description: str = ""
    input: Schema = Field(default_factory=lambda: DEFAULT_INPUT)
    output: Schema | None = None
    request_size: RequestSize | None = None
    escape: Text | None = None


class Batching(Section):
    """`tools.batching`: how many calls of one turn run side by side."""

    later: ClassVar[frozenset[str]] = frozenset({"max_wait_ms"})

    enabled: bool = True
    max_batch_size: int = Field(default=8, ge=1, le=1000)


class CatalogEntry(Section):
    """`tools.catalog[]`: how one tool is run, where the file knows better than the tool's own declaration."""

    later: ClassVar[frozenset[str]] = frozenset({"async", "poll_interval_ms"})

    id: Text
    batchable: bool | None = None
    idempotent: bool | None = None
    approval: Literal["always"] | None = None
    timeout_ms: int | None = Field(default=None, ge=1, le=86_400_000)


class Tools(Section):
    """`tools`: how tools are run, for every agent."""

    later: ClassVar[frozenset[str]] = frozenset({"mcp"})

    batching: Batching = Field(default_factory=Batching)
    catalog: list[CatalogEntry] = Field(default_factory=list)


class Lane(Section):
    """`lanes.<name>`: slots of one process, and how many jobs may wait before a submission is refused."""

    slots: int | None = Field(default=None, ge=1, le=1000)
    max_depth: int | None = Field(default=None, ge=1)
