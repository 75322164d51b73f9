"""Providers' clients and models. Importing pydantic-ai and the SDKs takes a second: only `agents.llm.port` does it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, get_args

import httpx2
from openai.types.responses import ResponseStreamEvent
from pydantic_ai.models import Model, create_async_httpx2_client
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from agents.llm.choose import expand, missing
from agents.runtime.errors import ModelRefused

OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com"
# OpenAI's own models want `max_completion_tokens`; of compatible servers many know `max_tokens` only.
_OPENAIS_OWN = re.compile(r"^(gpt-|o\d|chatgpt-|codex-)")


def client() -> httpx2.AsyncClient:
    """Return a new pooled client for all providers: 5 s to connect, the rest is up to each request.

    Idle connections stay open for a minute: a person's next message does not wait for another TLS handshake.
    """
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=60)
    return create_async_httpx2_client(limits=limits)


def model(name: str, env: Mapping[str, str], http: httpx2.AsyncClient) -> Model[Any]:
    """Return pydantic-ai's model for ``provider:name``.

    Raises:
        ModelRefused: there is no such provider, or its key is missing.
    """
    try:
        provider, _, model_name = expand(name).partition(":")
    except ValueError as error:
        raise ModelRefused(f"No such model: {error}.") from None
    lacking = missing(name, env)
    if lacking is not None:
        raise ModelRefused(f"{name} needs {lacking}, which is not set. Set it, or ASTRA_MODEL=demo.")
    if provider == "anthropic":
        base = env.get("ANTHROPIC_BASE_URL") or ANTHROPIC_URL
        return AnthropicModel(
            model_name, provider=AnthropicProvider(api_key=env["ANTHROPIC_API_KEY"], base_url=base, http_client=http)
        )
    base = env.get("OPENAI_BASE_URL") or OPENAI_URL
    openai = OpenAIProvider(base_url=base, api_key=env.get("OPENAI_API_KEY") or "none-needed", http_client=http)
    if provider == "openai-responses" or (provider == "openai" and base == OPENAI_URL):
        _build_events()
        return OpenAIResponsesModel(model_name, provider=openai)
    own = bool(_OPENAIS_OWN.match(model_name))
    profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=own)
    return OpenAIChatModel(model_name, provider=openai, profile=profile)


@functools.cache
def _build_events() -> None:
    """Build the validators of the events of a Responses stream: the first stream would hold up the loop with it."""
    for kind in get_args(get_args(ResponseStreamEvent)[0]):
        kind.model_rebuild()
