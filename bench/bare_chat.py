"""The least that a chat over Channels can be: it keeps nothing, knows nobody, and sends each token as a frame.

Run it with `python -m daphne bench.bare_chat:application`.
"""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from bench import tokens

if not settings.configured:
    settings.configure()


class Chat(AsyncWebsocketConsumer):
    """Answers each message."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Stream the reply."""
        async for token in tokens.stream(tokens.Wanted.read(json.loads(text_data or "")["text"])):
            await self._say({"type": "token", "text": token})
        await self._say({"type": "done"})

    async def _say(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame))  # type: ignore[no-untyped-call]


application = Chat.as_asgi()  # type: ignore[no-untyped-call]
