"""Why a message is refused, or a socket: each a problem with words for the person who reads it."""

from __future__ import annotations

from collections.abc import Sequence

from accounts.problems import Problem, Unavailable
from jobs.holds import EVERYTHING


class ReplyRunning(Problem):
    """A reply is being written in this conversation, or waits for somebody's decision.

    Wait for its end, or stop it. A conversation has one reply at a time; another conversation may have its own.
    """

    slug, title, status = "reply-running", "A reply is still being written", 409


class MessageTooLong(Problem):
    """The message is longer than the endpoint takes.

    Shorten it, or send it in parts.
    """

    slug, title, status = "message-too-long", "The message is too long", 413


class TooFast(Problem):
    """Messages come faster than one person may send them.

    Wait the seconds that the detail says.
    """

    slug, title, status = "too-fast", "That was too fast", 429


class TooManyReplies(Problem):
    """As many replies are being written for you as one person may have at a time.

    Wait until one of them is finished, or stop one.
    """

    slug, title, status = "too-many-replies", "Too many replies at a time", 429


class ChatFull(Problem):
    """The site writes as many replies as it can at this moment.

    Nothing was sent. Try again in a few seconds.
    """

    slug, title, status = "chat-full", "The chat is busy", 503


class Paused(Problem):
    """An operator has paused the agent, its endpoint or the chat.

    Nothing was sent. Try again later.
    """

    slug, title, status = "paused", "The agent is paused", 409


class BadFrame(Problem):
    """The socket got something that is no frame it knows.

    A frame is one JSON object with a `type`: `message`, `stop`, `resume` or `ping`.
    """

    slug, title, status = "bad-frame", "That is no frame of the chat", 400


class TooManySockets(Problem):
    """One person may have only so many chat connections open at a time.

    Close a tab that you do not need.
    """

    slug, title, status = "too-many-sockets", "Too many connections", 429


def paused(reasons: Sequence[str]) -> Paused:
    """Return the refusal of a message for reasons that hold its job back, in words for who sent it."""
    kinds = {reason.removeprefix("hold:").partition(":")[0] for reason in reasons}
    what = "Astra" if EVERYTHING in kinds else "The chat" if "lane" in kinds else "This agent"
    return Paused(f"{what} is paused for now. Try again later.")


def unavailable(detail: str, *, after_s: int = 3) -> Unavailable:
    """Return the refusal of whoever comes while a part is away."""
    return Unavailable(detail, headers={"Retry-After": str(after_s)}, retry_after_s=after_s)
