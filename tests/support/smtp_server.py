"""A small real mail server on loopback for tests, in a thread of its own. It keeps what it is given, or refuses."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import threading
from dataclasses import dataclass, field
from email.message import EmailMessage
from types import TracebackType
from typing import Self


@dataclass(slots=True)
class Mail:
    """One mail that was taken."""

    sender: str
    to: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        """Its plain text."""
        part = self.message.get_body(("plain",))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


@dataclass(slots=True)
class _Envelope:
    is_known: bool
    sender: str = ""
    to: list[str] = field(default_factory=list)


@dataclass
class SmtpServer:
    """Serves on 127.0.0.1 while it is entered."""

    #: Who may send, as ``user:password``; empty for anybody.
    login: str = ""
    #: By command (``RCPT``, ``DATA``) what it is answered instead, once for each line of the list.
    refusals: dict[str, list[str]] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """What ``ASTRA_SMTP_URL`` is for it."""
        return f"smtp://{self.login}@127.0.0.1:{self.port}" if self.login else f"smtp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the mail server did not start"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            try:
                await self._talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                writer.transport.abort()
                tasks.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(*lines: str) -> None:
            writer.write("".join(f"{line}\r\n" for line in lines).encode())
            await writer.drain()

        envelope = _Envelope(is_known=not self.login)
        await say("220 test")
        while line := (await reader.readline()).decode("utf-8").strip():
            verb = line.split(" ", 1)[0].upper()
            if self.refusals.get(verb):
                await say(self.refusals[verb].pop(0))
            elif verb == "DATA":
                await say("354 go on")
                data = await reader.readuntil(b"\r\n.\r\n")
                message = email.message_from_bytes(data[:-3].replace(b"\r\n..", b"\r\n."), policy=email.policy.default)
                self.mails.append(Mail(envelope.sender, envelope.to, message))
                await say("250 taken")
            else:
                await say(*self._answer(verb, line, envelope))

    def _answer(self, verb: str, line: str, envelope: _Envelope) -> list[str]:
        match verb:
            case "EHLO":
                return ["250-test", "250-SMTPUTF8", "250-8BITMIME", "250 AUTH PLAIN"]
            case "AUTH":
                given = base64.b64decode(line.split()[2]).decode()
                envelope.is_known = given == "\0" + self.login.replace(":", "\0")
                return ["235 ok" if envelope.is_known else f"535 it is not {given}"]
            case "MAIL" if not envelope.is_known:
                return ["530 sign in"]
            case "MAIL":
                envelope.sender, envelope.to = _address(line), []
            case "RCPT":
                envelope.to.append(_address(line))
        return ["250 ok"]


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]
