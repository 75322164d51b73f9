"""Mail, through the server that ``ASTRA_SMTP_URL`` names."""

from __future__ import annotations

import contextlib
import ipaddress
import smtplib
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend

from jobs.notify import Message, NotSent

#: So long the server may take for each of its answers. Seconds.
TIMEOUT_S = 10
#: Characters of what a server says that are kept.
MAX_SAID = 200
WAY = "mail"


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server, and how to talk to it."""

    host: str
    port: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    #: TLS from the first byte, or begun by STARTTLS, which the server then has to know.
    is_tls: bool
    is_starttls: bool

    @classmethod
    def of(cls, url: str) -> Server:
        """Read ``ASTRA_SMTP_URL``.

        Raises:
            ValueError: it names no host, or an impossible port.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("it names no host")
        user, is_tls = unquote(parts.username or ""), parts.scheme == "smtps"
        is_starttls = not is_tls and bool(user) and not _is_here(parts.hostname)
        port = parts.port or (465 if is_tls else 587 if user else 25)
        return cls(parts.hostname, port, user, unquote(parts.password or ""), is_tls, is_starttls)


def is_set_up() -> bool:
    """Tell whether there is a mail server."""
    return bool(settings.SMTP_URL)


def send(to: str, message: Message, message_id: str) -> None:
    """Send a mail and wait until the server has taken it.

    Args:
        message_id: names the mail: one that is sent again after a crash is the same mail to whoever gets it.

    Raises:
        NotSent: it was not taken.
    """
    server = _server()
    if "@" not in to or any(one.isspace() for one in to):
        raise NotSent("The person's mail address is none.", way=WAY, retriable=False)
    host = urlsplit(settings.PUBLIC_URL).hostname or "localhost"
    headers = {"Message-ID": f"<{message_id}@{host}>", "Auto-Submitted": "auto-generated"}
    mail = EmailMessage(message.subject, message.body, settings.MAIL_FROM, [to], headers=headers)
    backend = EmailBackend(
        host=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        use_tls=server.is_starttls,
        use_ssl=server.is_tls,
        timeout=TIMEOUT_S,
    )
    try:
        backend.send_messages([mail])
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        what = f"The mail server does not take mail for this person: {_said(server, code, said)}"
        raise NotSent(what, way=WAY, retriable=code < 500) from None
    except smtplib.SMTPResponseException as error:
        what = f"The mail server refused: {_said(server, error.smtp_code, error.smtp_error)}"
        raise NotSent(what, way=WAY) from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotSent(f"The mail server could not be talked to: {_words(server, error)}", way=WAY) from None
    except ValueError:  # of an address or a header that is none
        what = "The mail cannot be written: the person's address or ASTRA_MAIL_FROM is none, or its subject no line."
        raise NotSent(what, way=WAY, retriable=False) from None
    finally:
        with contextlib.suppress(smtplib.SMTPException, OSError):
            backend.close()  # it is open still if the server refused the password


def fault() -> str:
    """Return what is wrong with the settings of mail, in a sentence; nothing if they can be right."""
    try:
        Server.of(settings.SMTP_URL)
    except ValueError as error:
        return f"ASTRA_SMTP_URL is no address of a mail server: {error}."
    return ""


def _server() -> Server:
    if not is_set_up():
        raise NotSent("No mail server is set: ASTRA_SMTP_URL is empty.", way=WAY, retriable=False)
    try:
        return Server.of(settings.SMTP_URL)
    except ValueError:
        raise NotSent("ASTRA_SMTP_URL is no address of a mail server.", way=WAY, retriable=False) from None


def _said(server: Server, code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {_clean(server, text)}".strip()


def _words(server: Server, error: Exception) -> str:
    return _clean(server, str(error)) or type(error).__name__


def _clean(server: Server, text: str) -> str:
    """Return what somebody said without what is secret: a server may repeat what it was told."""
    for secret in (server.password, server.user):
        if secret:
            text = text.replace(secret, "…")
    return "".join(one if one.isprintable() else " " for one in text)[:MAX_SAID].strip()


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
