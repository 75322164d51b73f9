"""Which model a name means, and what it costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agents.llm.choose import UnknownModel, resolve
from agents.llm.port import PydanticAIPort
from agents.llm.prices import Prices, most_input_tokens
from agents.runtime.sizes import likely_tokens
from agents.runtime.types import Message, ModelCall, ToolSpec

ALIASES = {"strong": "anthropic:claude-sonnet-5-5", "fast": "openai:gpt-5-mini", "main": "strong"}
KEYS = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o"}


def call(text: str = "Hello", **more: Any) -> ModelCall:
    return ModelCall(
        **{"model": "openai:gpt-5", "messages": (Message(role="user", text=text),), "max_tokens": 1000, **more}
    )


@pytest.mark.parametrize(
    ("name", "env", "model"),
    [
        ("strong", KEYS, "anthropic:claude-sonnet-5-5"),
        ("main", KEYS, "anthropic:claude-sonnet-5-5"),
        ("openai:gpt-5.1", KEYS, "openai:gpt-5.1"),
        ("strong", {"OPENAI_API_KEY": "o"}, "demo"),
        ("fast", {}, "demo"),
        ("openai:llama", {"OPENAI_BASE_URL": "http://localhost:11434/v1"}, "openai:llama"),
        ("strong", KEYS | {"ASTRA_MODEL": "demo"}, "demo"),
        ("strong", {"ASTRA_MODEL": "openai:gpt-5.1"}, "openai:gpt-5.1"),
        ("strong", KEYS | {"ASTRA_MODEL": "fast"}, "openai:gpt-5-mini"),
        ("demo", KEYS, "demo"),
    ],
)
def test_a_name_means_one_model(name: str, env: dict[str, str], model: str) -> None:
    assert resolve(name, ALIASES, env) == model


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("strnog", "did you mean 'strong'"),
        ("gpt-5.1", "openai:gpt-5.1"),
        ("opnai:gpt-5", "did you mean 'openai'"),
        ("mistral:large", "no provider 'mistral'"),
        ("openai:", "no model"),
        ("a", "round in circles"),
    ],
)
def test_a_wrong_name_names_the_right_one(name: str, says: str) -> None:
    with pytest.raises(UnknownModel, match=says):
        resolve(name, ALIASES | {"a": "b", "b": "a"}, {})


def test_the_site_s_settings_decide_when_nothing_is_given(settings: Any) -> None:
    settings.ASTRA_MODEL, settings.ANTHROPIC_API_KEY = "", "key"
    assert resolve("anthropic:claude-sonnet-5-5") == "anthropic:claude-sonnet-5-5"
    settings.ANTHROPIC_API_KEY = ""
    assert resolve("anthropic:claude-sonnet-5-5") == "demo"


@pytest.mark.parametrize(
    "model",
    ["openai:gpt-5.1", "openai-chat:gpt-5-mini", "openai-responses:gpt-5.1", "anthropic:claude-haiku-4-5"],
)
def test_public_models_have_prices(model: str) -> None:
    cost = Prices().cost(model, 1_000_000, 0)
    assert cost is not None
    assert Decimal("0.01") < cost < 100


def test_an_unknown_model_has_none_and_a_told_price_goes_first() -> None:
    assert Prices().cost("openai:my-own-llama", 10, 10) is None
    told = Prices({"openai:my-own-llama": (0.5, "1.5"), "openai:gpt-5.1": (1, 2)})
    assert told.cost("openai:my-own-llama", 1_000_000, 2_000_000) == Decimal("3.5")
    assert told.cost("openai:gpt-5.1", 1_000_000, 1_000_000) == 3
    assert told.cost("demo", 10**9, 10**9) == 0


def test_the_upper_bound_is_above_what_any_tokenizer_makes_of_the_text() -> None:
    tool = ToolSpec(name="t", description="d" * 500, parameters={"type": "object"})
    small, large = call("x" * 100), call("x" * 100_000)
    assert most_input_tokens(large) - most_input_tokens(small) == 99_900
    assert most_input_tokens(call("🙂" * 10)) >= 40
    assert most_input_tokens(call("x", tools=(tool,))) > most_input_tokens(call("x")) + 500
    port = PydanticAIPort(env={}, prices={"openai:gpt-5": (1, 10)})
    assert (port.upper_bound_usd(call("x" * 1000)) or 0) >= Decimal("0.011")
    assert port.upper_bound_usd(call(model="openai:unheard-of")) is None
    assert port.upper_bound_usd(call(model="demo")) == 0


def test_likely_tokens_are_about_a_quarter_of_the_bytes() -> None:
    assert likely_tokens("") == 0
    assert 20 <= likely_tokens("The quick brown fox jumps over the lazy dog. " * 2) <= 25
