"""From a provider's errors to ours: what happened, whether it passes, and what a person can do about it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from pydantic_ai import exceptions as theirs

from agents.llm.choose import NEEDS
from agents.runtime.errors import BadReply, ContextOverflow, ModelRefused, ModelUnavailable, RunError

_TOO_LONG = (
    "maximum context",
    "context length",
    "context window",
    "context size",
    "too many tokens",
    "prompt is too long",
    "reduce the length",
    "exceeds the available context",
)
#: What a person can do about what passes.
_SOON = "Try again in a moment."
_PASSING_STATUSES = frozenset({408, 409, 425, 429, 499})


def translate(error: Exception, model: str) -> RunError:
    """Return our error for whatever a request to ``model`` raised. Never holds a key or a whole response."""
    provider, _, name = model.partition(":")
    if isinstance(error, RunError):
        return error
    if isinstance(error, theirs.ModelAPIError):
        return _of_api(error, provider, name)
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return ModelUnavailable(f"{model} did not answer in time. {_SOON}")
    if isinstance(error, httpx2.HTTPError | httpx2.StreamError | OSError):
        return ModelUnavailable(f"The connection to {model} broke: {type(error).__name__}. {_SOON}")
    if isinstance(error, theirs.UserError):
        return ModelRefused(f"{model} cannot be asked: {_short(error.message)}")
    if isinstance(error, theirs.AgentRunError | ValueError | TypeError | KeyError | AttributeError | IndexError):
        # The libraries read replies loosely; what they trip over is the reply.
        return _unreadable(model, _short(str(error)) or type(error).__name__)
    return ModelUnavailable(f"{model} failed: {type(error).__name__}. {_SOON}")


def _unreadable(model: str, why: str) -> BadReply:
    return BadReply(
        f"The answer of {model} could not be read: {_ended(why)} Try again; if it stays so, check that the address "
        "of the model's server is right and that it speaks the provider's protocol."
    )


def _ended(said: str) -> str:
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."


def _of_api(error: theirs.ModelAPIError, provider: str, name: str) -> RunError:
    said = _said(error)
    wait = {} if error.retry_after is None else {"retry_after_s": error.retry_after}
    if isinstance(error, theirs.ModelContextWindowExceededError) or _says_too_long(error, said):
        return ContextOverflow(
            f"The conversation is too long for {name}: {_ended(said)} Shorten the message or begin a new conversation."
        )
    if isinstance(error, theirs.ModelRequestRejectedError | theirs.ModelQuotaExceededError):
        return _refused(error, provider, name, said)
    if isinstance(error, theirs.ModelRateLimitError):
        return ModelUnavailable(f"{provider} limits how much may be asked: {_ended(said)} {_later(error)}", **wait)
    if isinstance(error, theirs.ModelRequestTimeout | theirs.ModelTimeoutError):
        return ModelUnavailable(f"{provider}:{name} did not answer in time. {_SOON}", **wait)
    if isinstance(error, theirs.ModelConnectionError):
        return ModelUnavailable(f"{provider} cannot be reached: {_ended(said)} {_SOON}", **wait)
    if isinstance(error, theirs.ModelUnavailableError | theirs.ModelServerError):
        return ModelUnavailable(f"{provider} cannot answer now: {_ended(said)} {_later(error)}", **wait)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        if status in _PASSING_STATUSES:
            return ModelUnavailable(f"{provider} answers HTTP {status}: {_ended(said)} {_later(error)}", **wait)
        return ModelRefused(f"{provider} refuses the request (HTTP {status}): {said}")
    return _unreadable(f"{provider}:{name}", said)


def _later(error: theirs.ModelAPIError) -> str:
    """Say when to try again: when the provider says so, else soon."""
    if error.retry_after is None or error.retry_after <= 1:
        return _SOON
    return f"Try again in {error.retry_after:,.0f} s."


def _refused(error: theirs.ModelAPIError, provider: str, name: str, said: str) -> ModelRefused:
    key = NEEDS.get(provider, ("the key",))[0]
    if isinstance(error, theirs.ModelAuthenticationError):
        # What it says often repeats a part of the key.
        return ModelRefused(f"{provider} does not accept the key for {name}. Check {key} and what it may use.")
    if isinstance(error, theirs.ModelNotFoundError):
        close = getattr(error, "suggested_model_id", None)
        hint = (
            f" Did you mean {close}?" if close else " Check ASTRA_MODEL, the models in astra.yml and OPENAI_BASE_URL."
        )
        return ModelRefused(f"{provider} has no model {name}.{hint}")
    if isinstance(error, theirs.ModelQuotaExceededError):
        return ModelRefused(f"The account at {provider} has no credit left: {said}")
    return ModelRefused(f"{provider} refuses the request: {said}")


def _says_too_long(error: theirs.ModelAPIError, said: str) -> bool:
    status = getattr(error, "status_code", None)
    return status in (400, 413, 422) and any(phrase in said.lower() for phrase in _TOO_LONG)


def _said(error: theirs.ModelAPIError) -> str:
    """Return the provider's own sentence."""
    body: Any = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if message:
            return _short(message if isinstance(message, str) else json.dumps(message))
    if isinstance(body, str) and body.strip():
        return _short(body)
    status = getattr(error, "status_code", None)
    return f"HTTP {status}" if status else _short(error.message)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 300 else one_line[:299] + "…"
