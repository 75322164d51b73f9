"""The peers' tasks, the same for RQ and Celery. Imported in the peers' environment only."""

from __future__ import annotations

import functools
import os
import time
import urllib.parse

import httpx
import redis
from celery import Celery  # type: ignore[import-not-found]

QUESTION = {"model": "bench", "messages": [{"role": "user", "content": "Wait a second."}]}
PATIENCE_S = 30.0
REDIS_URL = os.environ["REDIS_URL"]


def celery_url(url: str) -> str:
    """Return the Redis URL as Celery's transport wants it: a Unix socket is `redis+socket://` to it."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "unix":
        return url
    db = urllib.parse.parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{urllib.parse.unquote(parts.path)}?virtual_host={db}"


@functools.cache
def client() -> httpx.Client:
    """Return this process's one HTTP client; its connections are kept open and shared by threads."""
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    return httpx.Client(limits=limits, timeout=PATIENCE_S)


@functools.cache
def valkey() -> redis.Redis:
    """Return this process's one connection for what tasks say."""
    return redis.Redis.from_url(REDIS_URL, socket_timeout=60)


def noop() -> None:
    """Do nothing."""


def stamp() -> None:
    """Say when it began."""
    valkey().rpush("bench:starts", time.time())


def call_model(url: str) -> None:
    """Ask the model server."""
    client().post(f"{url}/chat/completions", json=QUESTION).raise_for_status()


#: As near to Astra's promises as Celery comes: a task is acknowledged after it ran, and one whose process was killed
#: goes back. Its result is kept for a while, as RQ's and Astra's are.
KEPT = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "result_backend": celery_url(REDIS_URL),
}
#: Celery at its fastest: acknowledged before it runs, nothing kept.
FASTEST = {"task_acks_late": False, "task_ignore_result": True}

app = Celery("bench", broker=celery_url(REDIS_URL))
app.conf.update(FASTEST if os.environ.get("BENCH_CELERY") == "fastest" else KEPT)
app.conf.update(broker_connection_retry_on_startup=True)
celery_tasks = {function.__name__: app.task(function, name=function.__name__) for function in (noop, stamp, call_model)}
