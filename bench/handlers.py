"""What the measured jobs do: nothing, say when they began, wait for a model over HTTP, or hold their worker."""

from __future__ import annotations

import asyncio
import functools
import time

import httpx
import redis
from django.conf import settings

from jobs.handlers import Claim, Outcome, Succeeded, register_function
from jobs.process import hooks

#: What every system sends to the model server, and how long it waits for the answer.
QUESTION = {"model": "bench", "messages": [{"role": "user", "content": "Wait a second."}]}
PATIENCE_S = 30.0
#: The list in Valkey that tasks push the time of their start to.
STARTS = "bench:starts"


@functools.cache
def _valkey() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL)


@functools.cache
def _client() -> httpx.AsyncClient:
    """Return the process's one HTTP client: its connections are kept open, as agents' are."""
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    client = httpx.AsyncClient(limits=limits, timeout=PATIENCE_S)
    hooks.on_shutdown.append(client.aclose)
    return client


async def noop(claim: Claim) -> Outcome:
    return Succeeded()


async def stamp(claim: Claim) -> Outcome:
    """Say when it began."""
    _valkey().rpush(STARTS, time.time())
    return Succeeded()


async def call_model(claim: Claim) -> Outcome:
    """Ask the model server of the payload."""
    answer = await _client().post(claim.payload["url"] + "/chat/completions", json=QUESTION)
    answer.raise_for_status()
    return Succeeded()


async def hold(claim: Claim) -> Outcome:
    """Say when it began, then run until the process ends; in another process, end at once."""
    _valkey().rpush(STARTS, time.time())
    if claim.lane == claim.home_lane:
        await asyncio.Event().wait()
    return Succeeded()


def register() -> None:
    """Register all of them under `bench.NAME`."""
    for function in (noop, stamp, call_model, hold):
        register_function(f"bench.{function.__name__}", function)
