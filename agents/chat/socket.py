"""The chat's WebSocket, `/ws/chat/{conversation}/`: who may open it, what they may say, what they are sent.

Frames are one JSON object each, as the public contract lists them. A page never waits for another: what it does not
read in time is dropped, and it gets a snapshot instead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error as DatabaseError
from django.http.cookie import parse_cookie

from accounts import api_auth
from accounts.actors import address_of, peer
from accounts.api_auth import Caller
from accounts.problems import NotFound, Problem, Unauthenticated
from agents.chat import audience, exchange, frames, host
from agents.chat.database import in_thread
from agents.chat.exchange import Said
from agents.chat.host import ChatHost
from agents.chat.refusals import BadFrame, TooFast, TooManySockets, unavailable
from agents.models import CLIENT_ID_LENGTH, Conversation
from agents.runtime.errors import RunError
from audit.trail import Actor

logger = logging.getLogger(__name__)

READ, WRITE = "chat:read", "chat:write"
#: Pages of one person in one process.
MAX_SOCKETS = 40
#: Frames of a page in a minute, beyond which it is told to slow down, and cut off if it does not.
MAX_FRAMES = 120
#: So often it is looked at again whether the caller may still be here. Seconds.
RECHECK_S = 60.0
#: What waits for a slow reader, in characters; more than that is dropped for a snapshot.
MAX_BACKLOG = 256_000
#: A reader that takes nothing at all for so long is cut off. Seconds.
STALLED_S = 30.0
SIGN_IN, TOO_MANY = 4401, 4429


class ChatConsumer(AsyncWebsocketConsumer):
    """One open page, or one program."""

    #: Frames are handed on by the chat itself: no layer is needed.
    channel_layer_alias = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.user_id = 0
        self.conversation_id = UUID(int=0)
        self._caller: Caller | None = None
        self._session_key: str | None = None
        self._chat: ChatHost | None = None
        self._outbox = Outbox(self._write, self._refresh, self._cut)
        self._sending: asyncio.Task[None] | None = None
        self._rechecking: asyncio.Task[None] | None = None
        self._told: deque[float] = deque(maxlen=MAX_FRAMES)

    # --- opening and closing ------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Let those in who may read the conversation."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
        self.conversation_id = self.scope["url_route"]["kwargs"]["conversation_id"]
        self._outbox.flow = self.scope.get("extensions", {}).get("astra.flow")
        try:
            self._caller = caller = await _identify(headers, self.conversation_id)
            self.user_id = caller.user.pk
            self._session_key = _session_key(headers) if caller.token is None else None
            chat = host.current()
            if chat.audience.rooms.count_of(self.user_id) >= MAX_SOCKETS:
                raise TooManySockets(f"You have {MAX_SOCKETS} pages of the chat open. Close one of them.")
        except Problem as problem:
            await self._turn_away(problem, is_program="authorization" in headers)
            return
        self._chat = chat
        await self.accept()  # type: ignore[no-untyped-call]
        self._sending = asyncio.create_task(self._send_on())
        self._rechecking = asyncio.create_task(self._recheck(headers))
        chat.audience.join(self.conversation_id, self)

    async def _turn_away(self, problem: Problem, *, is_program: bool) -> None:
        """Refuse the handshake to programs; tell pages why, for a browser does not show them a refused handshake."""
        if is_program and problem.status < 500:
            await self.close()  # type: ignore[no-untyped-call]
            return
        await self.accept()  # type: ignore[no-untyped-call]
        await self.send(text_data=frames.error(problem))  # type: ignore[no-untyped-call]
        code = {401: SIGN_IN, 404: audience.GONE, 429: TOO_MANY}.get(problem.status, host.GO_ELSEWHERE)
        await self.close(code=code)  # type: ignore[no-untyped-call]

    async def disconnect(self, code: int) -> None:
        """Leave the room. The reply goes on."""
        if self._chat is not None:
            self._chat.audience.leave(self.conversation_id, self)
        for task in (self._sending, self._rechecking):
            if task is not None:
                task.cancel()

    def send_away(self, code: int) -> None:
        """Close it."""
        self._outbox.end(code)

    async def _recheck(self, headers: Mapping[str, str]) -> None:
        """Look again now and then: a token may have been revoked, a session ended, the conversation deleted."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await _identify(headers, self.conversation_id)
            except Problem as problem:
                if problem.status < 500:
                    self.put(frames.error(problem))
                    self.send_away(audience.GONE if problem.status == 404 else SIGN_IN)
                    return
            except Exception:
                logger.exception("a socket could not be looked at again", extra={"action": "recheck_failed"})

    # --- what it is sent ----------------------------------------------------------------------------------------

    def put(self, text: str) -> None:
        """Send a frame, as soon as the reader takes it."""
        self._outbox.put(text)

    async def _write(self, text: str | None, code: int | None = None) -> None:
        if text is not None:
            await self.base_send({"type": "websocket.send", "text": text})
        else:
            await self.close(code=code)  # type: ignore[no-untyped-call]

    async def _send_on(self) -> None:
        try:
            await self._outbox.run()
        except Exception:
            logger.exception("a socket failed", extra={"action": "socket_failed", "user": self.user_id})
            await self._write(None, host.GO_ELSEWHERE)  # better than one that is open and says nothing

    async def _refresh(self) -> list[str]:
        """Return what brings a reader up to date that was too slow."""
        assert self._chat is not None
        return await self._chat.audience.catch_up(self.conversation_id)

    def _cut(self) -> None:
        logger.warning("a reader was too slow", extra={"action": "socket_cut", "user": self.user_id})
        self._outbox.flow.abort()

    # --- what it says -------------------------------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take a frame; refuse in words what cannot be done."""
        if self._chat is None:
            return  # it was turned away
        if self._is_flooding():
            self.put(frames.error(TooFast(f"More than {MAX_FRAMES} frames in a minute.")))
            self.send_away(TOO_MANY)
            return
        said: dict[str, Any] = {}
        try:
            said = _parse(text_data)
            await self._do(said)
        except (Problem, RunError) as refusal:
            self.put(frames.error(refusal, said.get("client_id")))
            if isinstance(refusal, Unauthenticated):
                self.send_away(SIGN_IN)
        except DatabaseError:
            logger.exception("the database does not answer", extra={"action": "chat_unavailable"})
            self.put(frames.error(unavailable("The database does not answer now."), said.get("client_id")))

    async def _do(self, said: dict[str, Any]) -> None:
        assert self._chat is not None and self._caller is not None
        kind = said.get("type")
        if kind == "ping":
            self.put('{"type":"pong"}')
        elif kind == "resume":
            await self._chat.audience.show(_run_id(said), self.conversation_id, self)
        elif kind == "stop":
            self._caller.require(WRITE)
            await self._chat.stop_run(_run_id(said), self.conversation_id, self._actor())
        elif kind == "message":
            self._caller.require(WRITE)
            await self._send_message(said)
        else:
            raise BadFrame(f"There is no frame of type {str(kind)[:40]!r}; there are message, stop, resume and ping.")

    async def _send_message(self, said: dict[str, Any]) -> None:
        assert self._chat is not None and self._caller is not None
        client_id = said.get("client_id")
        if not isinstance(client_id, str) or not 1 <= len(client_id) <= CLIENT_ID_LENGTH or not client_id.isprintable():
            raise BadFrame(
                f"A message has a client_id: a text of 1 to {CLIENT_ID_LENGTH} printable characters,"
                " another one each time."
            )
        text = exchange.check_text(said.get("text"))
        token = self._caller.token
        begun = await self._chat.send(
            Said(
                self.conversation_id,
                self.user_id,
                text,
                client_id,
                session_key=self._session_key,
                token_id=token.pk if token is not None else None,
            )
        )
        if begun.claim is None:
            self.put(
                frames.encode(
                    {
                        "type": "run.accepted",
                        "run_id": str(begun.run_id),
                        "seq": 0,
                        "client_id": client_id,
                        "text": begun.text,
                        "message_id": str(begun.message_id),
                    }
                )
            )
            await self._chat.audience.show(begun.run_id, self.conversation_id, self)

    def _is_flooding(self) -> bool:
        now = time.monotonic()
        if len(self._told) == MAX_FRAMES and now - self._told[0] < 60:
            return True
        self._told.append(now)
        return False

    def _actor(self) -> Actor:
        assert self._caller is not None
        client = self.scope.get("client")
        forwarded = b",".join(value for name, value in self.scope["headers"] if name == b"x-forwarded-for")
        address = peer(client[0] if client else "", forwarded.decode("latin-1"))
        token = self._caller.token
        return Actor(user=self._caller.user, address=address_of(address), token_id=token.pk if token else None)


class Outbox:
    """What waits for one reader: little, or nothing but the news that it missed something."""

    def __init__(
        self,
        write: Callable[..., Awaitable[None]],
        refresh: Callable[[], Awaitable[list[str]]],
        cut: Callable[[], None],
    ) -> None:
        self._write = write
        self._refresh = refresh
        self._cut = cut
        self._frames: deque[str] = deque()
        self._size = 0
        self._lagging = False
        self._code: int | None = None
        self._news = asyncio.Event()
        #: The server's word on whether the reader keeps up; None where its `send` waits by itself.
        self.flow: Any = None

    def put(self, text: str) -> None:
        """Add a frame. One alone is taken however long it is: there is no shorter way to say it."""
        if self._lagging or self._code is not None:
            return
        if self._frames and self._size + len(text) > MAX_BACKLOG:
            self._frames.clear()
            self._size, self._lagging = 0, True
        else:
            self._frames.append(text)
            self._size += len(text)
        self._news.set()

    def end(self, code: int) -> None:
        """Close the socket once what waits was sent."""
        if self._code is None:
            self._code = code
            self._news.set()

    async def run(self) -> None:
        """Send until the end."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._frames or self._lagging:
                if self.flow is not None and self.flow.paused and not await self._drained():
                    return
                if self._lagging:
                    await self._catch_up()
                elif self._frames:
                    text = self._frames.popleft()
                    self._size -= len(text)
                    await self._write(text)
            if self._code is not None:
                await self._write(None, self._code)
                return

    async def _catch_up(self) -> None:
        self._lagging = False  # what comes from here on follows what is fetched, or is in it
        try:
            for text in await self._refresh():
                await self._write(text)
        except Problem:
            self.end(host.GO_ELSEWHERE)  # it is not to go on with a hole: it comes back and asks

    async def _drained(self) -> bool:
        try:
            async with asyncio.timeout(STALLED_S):
                await self.flow.writable()
        except TimeoutError:
            self._cut()
            return False
        return True


def _parse(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        raise BadFrame("A frame is one JSON object.") from None
    if not isinstance(said, dict):
        raise BadFrame("A frame is one JSON object.")
    return said


def _run_id(said: Mapping[str, Any]) -> UUID:
    try:
        return UUID(said["run_id"])
    except (KeyError, ValueError, AttributeError, TypeError):
        raise BadFrame("The frame needs the run_id of a reply.") from None


def _session_key(headers: Mapping[str, str]) -> str | None:
    return parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)


async def _identify(headers: Mapping[str, str], conversation_id: UUID) -> Caller:
    """Return who opens the socket, if they may.

    Raises:
        Problem: they are not known, or the conversation is not theirs.
    """
    try:
        return await in_thread(_identify_in_thread, headers, conversation_id)
    except DatabaseError:
        raise unavailable("The database does not answer now.") from None


def _identify_in_thread(headers: Mapping[str, str], conversation_id: UUID) -> Caller:
    if "authorization" in headers:
        caller = api_auth.by_token(headers["authorization"])
    else:
        try:
            caller = api_auth.by_session(_session_key(headers))
        except Unauthenticated:
            raise Unauthenticated("Sign in again: your session has ended.") from None
    caller.require(READ)
    if not Conversation.objects.filter(pk=conversation_id, user_id=caller.user.pk).exists():
        raise NotFound("There is no such conversation, or it is not yours.")
    return caller


application = ChatConsumer.as_asgi()  # type: ignore[no-untyped-call]
