"""The web server: daphne, with a stop that lets requests end.

Plain daphne cuts its streams on SIGTERM. Here it stops listening, tells the streams to end, lets the work of this
process finish or be handed back, waits for what is in flight, closes this process's clients and only then stops.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Collection
from typing import Any, cast

from asgiref.typing import ASGI3Application
from daphne.server import Server as Daphne
from daphne.server import twisted_loop
from django.conf import settings
from django.urls import get_resolver
from twisted.internet import defer, reactor, tcp

from astra_site import drain, readiness, sockets
from astra_site.asgi import application
from astra_site.bodies import Factory
from jobs.process import hooks

logger = logging.getLogger(__name__)

#: What work may take beyond the grace time to be handed back. Seconds.
HAND_BACK_S = 3.0
#: What requests and sockets have at least, when the work they waited for took all of the grace time. Seconds.
LAST_WORDS_S = 1.5
CLOSE_SECONDS = 2.0
#: A request that comes so long after we stopped listening is still answered. Seconds.
LATE_S = 0.2
FLUSH_POLL_S = 0.01
#: The longest stop takes so much longer than the grace time. Seconds.
CLOSING_S = HAND_BACK_S + 2 * LAST_WORDS_S + 3 * CLOSE_SECONDS


class Port(tcp.Port):
    """Accepts one connection at a time. Twisted's takes up to a hundred, and leaves none to who shares the socket."""

    @property
    def numberAccepts(self) -> int:  # noqa: N802
        """Return how many to accept before others have their turn."""
        return 1

    @numberAccepts.setter
    def numberAccepts(self, learned: int) -> None:  # noqa: N802
        """Keep it at one."""


class Server(Daphne):
    """Daphne on a socket that already listens."""

    def __init__(self, listener: socket.socket, application: ASGI3Application = application) -> None:
        # Daphne wants a name of what it listens on. The list is emptied: the socket is there already.
        super().__init__(  # type: ignore[no-untyped-call]
            sockets.reads_on(application),
            endpoints=["given"],
            signal_handlers=False,
            ready_callable=self.adopt,
            server_name="astra",
            websocket_max_message_size=sockets.MAX_BYTES,
            websocket_max_frame_size=sockets.MAX_BYTES,
            ping_interval=sockets.PING_S,
            ping_timeout=sockets.PONG_S,
        )
        self.endpoints = []
        self.listener = listener
        self.starting: set[asyncio.Task[None]] = set()
        self.stopping: asyncio.Task[None] | None = None

    def adopt(self) -> None:
        """Begin to accept connections."""
        sockets.prepare(self.ws_factory)
        self.http_factory = Factory(self)  # type: ignore[no-untyped-call]
        self.port = cast(Any, Port)._fromListeningDescriptor(
            reactor, self.listener.fileno(), self.listener.family, self.http_factory
        )
        self.port.startListening()
        self.listener.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            twisted_loop.add_signal_handler(number, self.begin_to_stop)
        readiness.tell(os.environ)
        self.starting = {twisted_loop.create_task(_logged("start", start())) for start in hooks.on_web_start}

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Begin to answer a request or a socket, which finds its flow in its scope."""
        if isinstance(protocol, sockets.Socket):
            scope["extensions"] = {sockets.FLOW: protocol.flow}
        return super().create_application(protocol, scope)  # type: ignore[no-untyped-call]

    def begin_to_stop(self) -> None:
        """Stop in order; a second call changes nothing."""
        if self.stopping is None:
            self.stopping = twisted_loop.create_task(self.stop_in_order())

    async def stop_in_order(self) -> None:
        """Stop listening, end the streams, let work finish, wait for the requests, close the clients, stop."""
        deadline = time.monotonic() + settings.GRACE_SECONDS
        await defer.maybeDeferred(self.port.stopListening).asFuture(twisted_loop)
        drain.begin()
        await self.stop_work(settings.GRACE_SECONDS)
        # Who was let in a moment ago may not have said yet what they want.
        await asyncio.sleep(LATE_S)
        running = self.applications()
        if running:
            logger.info("waiting for %d requests", len(running), extra={"action": "drain"})
            await asyncio.wait(running, timeout=max(deadline - time.monotonic(), LAST_WORDS_S))
        await self.said_goodbye()
        await _logged("close the clients", close_clients(), within_s=CLOSE_SECONDS)
        self.stop()  # type: ignore[no-untyped-call]

    async def stop_work(self, grace_s: float) -> None:
        """Let what the apps have begun here finish, or be handed back."""
        within_s = grace_s + HAND_BACK_S
        await asyncio.gather(*(_logged("stop", stop(grace_s), within_s=within_s) for stop in hooks.on_web_stop))
        for start in self.starting:
            start.cancel()
        await _ended(self.starting)

    async def said_goodbye(self) -> None:
        """Return when all that was written has left this process and closes were answered, or when that takes long."""
        deadline = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < deadline:
            writing = any(isinstance(writer, tcp.Connection) for writer in cast(Any, reactor).getWriters())
            if not writing and not any(isinstance(one, sockets.Socket) and one.is_closing for one in self.connections):
                return
            await asyncio.sleep(FLUSH_POLL_S)

    def applications(self) -> set[asyncio.Future[Any]]:
        """Return the requests and sockets that are still being answered."""
        found = (details.get("application_instance") for details in self.connections.values())
        return {task for task in found if task is not None and not task.done()}

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """Cancel what the grace time was not enough for. Daphne's own trips over idle connections."""
        running = self.applications()
        for task in running:
            task.cancel()
        return defer.Deferred.fromFuture(twisted_loop.create_task(_ended(running)))


async def _logged(what: str, work: Awaitable[None], *, within_s: float | None = None) -> None:
    """Await one piece of work; its failure is nobody else's."""
    try:
        async with asyncio.timeout(within_s):
            await work
    except Exception:
        logger.exception("the web process could not %s", what, extra={"action": "web_process"})


async def _ended(tasks: Collection[asyncio.Future[Any]]) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)


async def close_clients() -> None:
    """Close what this process opened lazily on its event loop."""
    from jobs import pool

    await hooks.shut_down()
    await pool.close_pool()


def serve(listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    # Whoever comes first need not wait for it.
    get_resolver().url_patterns  # noqa: B018  it imports the site's views
    Server(listener).run()  # type: ignore[no-untyped-call]
