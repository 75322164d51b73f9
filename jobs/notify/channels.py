"""Channels: the addresses of ``ASTRA_NOTIFY_URLS``, each known by its number. apprise talks to them."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings

from jobs.notify import Message, NotSent

if TYPE_CHECKING:
    from apprise import NotifyBase

#: So long one channel may take. Seconds.
TIMEOUT_S = 30
#: What apprise says of an answer that is no good.
_STATUS = re.compile(r"\berror=(\d{3})\b")
_importing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Channel:
    """One address. ``number`` counts from 1, as the setting does; the address may hold secrets."""

    number: int
    #: It is told only of what is for this group; empty: of everything.
    group: str
    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called where its address must not be shown."""
        return f"channel {self.number}" + (f" ({self.group})" if self.group else "")


def all_channels() -> list[Channel]:
    """Return the channels that are set."""
    return [Channel(number, group, url) for number, (group, url) in enumerate(settings.NOTIFY_URLS, start=1)]


def find(number: int) -> Channel | None:
    """Return the channel of that number, if there is one still."""
    return next((channel for channel in all_channels() if channel.number == number), None)


def send(channel: Channel, message: Message) -> None:
    """Send a message and wait until the other side has taken it.

    Raises:
        NotSent: it was not taken.
    """
    way = f"channel {channel.number}"
    service = _service(channel)
    if service is None:
        what = f"ASTRA_NOTIFY_URLS: apprise knows no such address as that of {channel.name}."
        raise NotSent(what, way=way, retriable=False)
    import apprise

    sender = apprise.Apprise(service)
    result = sender.notify(
        title=message.subject, body=message.body, body_format=apprise.NotifyFormat.TEXT, timeout=TIMEOUT_S
    )
    if result.status is not apprise.AppriseResultStatus.SUCCESS:
        raise NotSent(_why(channel, result), way=way)


def fault(channel: Channel) -> str:
    """Return what is wrong with an address, in a sentence; nothing if apprise can read it."""
    return "" if _service(channel) else f"ASTRA_NOTIFY_URLS: apprise knows no such address as that of {channel.name}."


def _service(channel: Channel) -> NotifyBase | None:
    with _importing:
        import apprise

        # Nothing is kept on disk, and nobody is led elsewhere with what is said.
        asset = apprise.AppriseAsset(app_id="Astra", storage_mode="memory", http_redirects=False)
        return apprise.Apprise.instantiate(channel.url, asset=asset)


def _why(channel: Channel, result: Any) -> str:
    """Say what went wrong in our own words: apprise's may hold parts of the address."""
    import apprise

    if result.status is apprise.AppriseResultStatus.TIMEOUT:
        return f"No answer from {channel.name} within {TIMEOUT_S} s."
    statuses = [found[1] for entry in result.logs() if (found := _STATUS.search(str(entry)))]
    if statuses:
        return f"Status {statuses[-1]} from {channel.name}: the message was not taken."
    return f"The message was not taken by {channel.name}: it cannot be reached, or refuses it."
