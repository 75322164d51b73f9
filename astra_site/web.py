"""The web server: daphne, with a stop that lets requests end.

Plain daphne cuts its streams on SIGTERM. Here it stops listening, tells the streams to end, waits for what is in
flight, closes this process's clients and only then stops.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Any

from asgiref.typing import ASGI3Application
from daphne.server import Server as Daphne
from daphne.server import twisted_loop
from django.conf import settings
from twisted.internet import defer, reactor

from astra_site import drain
from astra_site.asgi import application
from astra_site.bodies import Factory

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0


class Server(Daphne):
    """Daphne on a socket that already listens."""

    def __init__(self, listener: socket.socket, application: ASGI3Application = application) -> None:
        # Daphne wants a name of what it listens on. The list is emptied: the socket is there already.
        super().__init__(  # type: ignore[no-untyped-call]
            application, endpoints=["given"], signal_handlers=False, ready_callable=self.adopt, server_name="astra"
        )
        self.endpoints = []
        self.listener = listener
        self.stopping: asyncio.Task[None] | None = None

    def adopt(self) -> None:
        """Begin to accept connections."""
        self.http_factory = Factory(self)  # type: ignore[no-untyped-call]
        self.port = reactor.adoptStreamPort(self.listener.fileno(), self.listener.family, self.http_factory)
        self.listener.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            twisted_loop.add_signal_handler(number, self.begin_to_stop)

    def begin_to_stop(self) -> None:
        """Stop in order; a second call changes nothing."""
        if self.stopping is None:
            self.stopping = twisted_loop.create_task(self.stop_in_order())

    async def stop_in_order(self) -> None:
        """Stop listening, end the streams, wait for the rest, close the clients, stop."""
        await defer.maybeDeferred(self.port.stopListening).asFuture(twisted_loop)
        drain.begin()
        running = self.applications()
        if running:
            logger.info("waiting for %d requests", len(running), extra={"action": "drain"})
            await asyncio.wait(running, timeout=settings.GRACE_SECONDS)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await close_clients()
        except Exception:
            logger.exception("could not close all clients", extra={"action": "drain"})
        self.stop()  # type: ignore[no-untyped-call]

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


async def _ended(tasks: set[asyncio.Future[Any]]) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)


async def close_clients() -> None:
    """Close what this process opened lazily on its event loop."""
    from channels.layers import channel_layers

    from jobs import pool
    from jobs.process import hooks

    await hooks.shut_down()
    await pool.close_pool()
    for layer in channel_layers.backends.values():
        await layer.close_pools()


def serve(listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    Server(listener).run()  # type: ignore[no-untyped-call]
