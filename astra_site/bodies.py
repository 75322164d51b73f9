"""What the web server takes in: no body beyond a bound, and none parsed on the event loop.

Plain daphne takes bodies of any size, and Twisted parses forms before any application is asked: one anonymous form of
100 MB stopped a web process for a minute. Here a body that is too large is refused as soon as that shows, and Django
alone parses what is left, in a thread.
"""

from __future__ import annotations

import json
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import twisted_loop

from accounts.problems import CONTENT_TYPE
from agents.payload import PayloadTooLarge
from astra_site import request_id

#: No page and no call takes more; each has its own limit below this one.
MAX_BYTES = 4 << 20
#: How long the rest of a refused body is thrown away: a connection closed at once may take the answer with it.
LINGER_S = 5.0


class Request(WebRequest):
    """A request whose body is bounded. The names are Twisted's."""

    is_refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)  # type: ignore[no-untyped-call]

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """Refuse a body that is declared too large before any of it has come."""
        super().gotLength(length)  # type: ignore[no-untyped-call]
        if length is not None and length > MAX_BYTES:
            self.refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        """Keep a piece of the body, unless there is too much of it."""
        content: Any = self.content
        if not self.is_refused and content.tell() + len(data) > MAX_BYTES:
            self.refuse()
        if not self.is_refused:
            content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802
        """Answer the request, unless that was done."""
        if self.is_refused:
            self.let_go()
        else:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def refuse(self) -> None:
        """Answer 413, and close the connection when the client had time to read it."""
        self.is_refused = True
        offered = self.requestHeaders.getRawHeaders(request_id.HEADER) or [""]
        body = json.dumps(PayloadTooLarge(f"The body may have {MAX_BYTES} bytes.").body())
        head = (
            "HTTP/1.1 413 Content Too Large",
            f"Content-Type: {CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            f"{request_id.HEADER}: {request_id.choose(offered[0])}",
            "Connection: close",
        )
        channel: Any = self.channel
        channel.transport.write("\r\n".join([*head, "", body]).encode("ascii"))
        twisted_loop.call_later(LINGER_S, self.let_go)

    def let_go(self) -> None:
        """Close the connection, unless the client did."""
        channel: Any = self.channel
        if channel is not None:
            channel.loseConnection()


class Factory(HTTPFactory):
    """Makes connections whose requests are bounded."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802
        """Return the protocol of a new connection."""
        protocol = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        protocol.requestFactory = Request
        return protocol
