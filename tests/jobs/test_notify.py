"""One message, by mail or to a channel: it arrives, or the words say why not, without a secret in them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from astra_site import env
from jobs.notify import Message, NotSent, channels, mail
from jobs.notify.mail import Server
from tests.support.http_server import Exchange, HttpServer
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")

MESSAGE = Message("Hello", "It is 5 < 6 & *fine*.\nhttps://astra.example/approvals/\n")
SECRET = "s3cret/t0ken"


class Channel(HttpServer):
    """Takes what is posted, or answers with `status`."""

    status = 200

    async def handle(self, exchange: Exchange) -> None:
        if self.status == 302:
            await exchange.reply("", status=302, headers={"location": f"{self.url}/elsewhere"})
            return
        await exchange.reply("", status=self.status)


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def channel(settings: Settings) -> Iterator[Channel]:
    with Channel() as server:
        settings.NOTIFY_URLS = (("", f"json://127.0.0.1:{server.port}/{SECRET}"),)
        yield server


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def refused(settings: Settings, url: str) -> NotSent:
    settings.SMTP_URL = url
    with pytest.raises(NotSent) as error:
        mail.send("rita@example.org", MESSAGE, "1")
    return error.value


# --- Mail ------------------------------------------------------------------------------------------------------------


def test_a_mail_arrives_with_a_name_that_stays_the_same_when_it_is_sent_again(
    smtp: SmtpServer, settings: Settings
) -> None:
    settings.SMTP_URL, settings.PUBLIC_URL = smtp.url, "https://astra.example"
    settings.MAIL_FROM = "Astra <astra@example.org>"
    for _ in range(2):
        mail.send("rita@example.org", MESSAGE, "job-1")
    [first, second] = smtp.mails
    assert (first.sender, first.to, first.text) == ("astra@example.org", ["rita@example.org"], MESSAGE.body)
    assert first.message["From"] == "Astra <astra@example.org>"
    assert first.message["Subject"] == "Hello"
    assert first.message["Auto-Submitted"] == "auto-generated"
    assert first.message["Message-ID"] == second.message["Message-ID"] == "<job-1@astra.example>"


def test_a_user_name_and_password_of_the_address_are_used(settings: Settings) -> None:
    with SmtpServer(login="astra:p%40ss") as smtp:
        smtp.login = "astra:p@ss"
        settings.SMTP_URL = f"smtp://astra:p%40ss@127.0.0.1:{smtp.port}"
        mail.send("rita@example.org", MESSAGE, "1")
        assert len(smtp.mails) == 1


def test_a_refused_password_is_named_and_not_shown(settings: Settings) -> None:
    with SmtpServer(login="astra:right") as smtp:
        error = refused(settings, f"smtp://astra:wrong-pass@127.0.0.1:{smtp.port}")
    assert "535" in str(error)
    assert "wrong-pass" not in str(error.problem())
    assert "it is not" in str(error), "the server repeats what it was told"
    assert error.retriable


def test_an_address_that_is_refused_for_good_is_not_tried_again(smtp: SmtpServer, settings: Settings) -> None:
    smtp.refusals["RCPT"] = ["550 5.1.1 nobody here", "450 later"]
    assert not refused(settings, smtp.url).retriable
    assert refused(settings, smtp.url).retriable


def test_a_server_that_is_away_is_tried_again(settings: Settings) -> None:
    error = refused(settings, f"smtp://127.0.0.1:{closed_port()}")
    assert error.retriable
    assert "could not be talked to" in str(error)
    assert error.problem()["type"] == "/problems/not-delivered"


@pytest.mark.parametrize("to", ["rita@example.org\nBcc: eve@example.org", "no address"])
def test_an_address_that_is_none_sends_nothing(smtp: SmtpServer, settings: Settings, to: str) -> None:
    settings.SMTP_URL = smtp.url
    with pytest.raises(NotSent) as error:
        mail.send(to, MESSAGE, "1")
    assert smtp.mails == []
    assert "eve" not in str(error.value)


def test_a_subject_of_several_lines_sends_nothing(smtp: SmtpServer, settings: Settings) -> None:
    settings.SMTP_URL = smtp.url
    with pytest.raises(NotSent) as error:
        mail.send("rita@example.org", Message("Hello\nBcc: eve@example.org", ""), "1")
    assert not error.value.retriable
    assert smtp.mails == []


@pytest.mark.parametrize(
    ("url", "port", "is_tls", "is_starttls"),
    [
        ("smtp://mail.example", 25, False, False),
        ("smtp://a:b@mail.example", 587, False, True),
        ("smtp://a:b@localhost:2525", 2525, False, False),
        ("smtp://a:b@[::1]", 587, False, False),
        ("smtps://a:b@mail.example", 465, True, False),
    ],
)
def test_a_password_leaves_the_machine_only_encrypted(url: str, port: int, is_tls: bool, is_starttls: bool) -> None:
    server = Server.of(url)
    assert (server.port, server.is_tls, server.is_starttls) == (port, is_tls, is_starttls)
    assert "b'" not in repr(server)
    assert "'a'" not in repr(server)


# --- Channels --------------------------------------------------------------------------------------------------------


def test_a_channel_gets_the_message(channel: Channel) -> None:
    channels.send(channels.all_channels()[0], MESSAGE)
    [request] = channel.requests
    assert request.target == f"/{SECRET}"
    assert request.json()["title"] == "Hello"
    assert "5 < 6 & *fine*" in request.json()["message"]


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_channel_that_refuses_is_named_by_its_number_and_its_status(
    channel: Channel, status: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    channel.status = status
    with pytest.raises(NotSent) as error:
        channels.send(channels.all_channels()[0], MESSAGE)
    assert f"Status {status} from channel 1" in str(error.value)
    assert error.value.retriable
    assert [request.path for request in channel.requests] == [f"/{SECRET}"], "nobody is led elsewhere"
    said = "".join([str(error.value.problem()), *capfd.readouterr(), caplog.text])
    assert "s3cret" not in said
    assert "t0ken" not in said


def test_a_channel_that_is_away_is_tried_again(settings: Settings) -> None:
    settings.NOTIFY_URLS = (("", f"json://127.0.0.1:{closed_port()}/{SECRET}"),)
    with pytest.raises(NotSent) as error:
        channels.send(channels.all_channels()[0], MESSAGE)
    assert error.value.retriable
    assert "s3cret" not in str(error.value.problem())


def test_an_address_that_apprise_does_not_know_is_said_without_it(settings: Settings) -> None:
    settings.NOTIFY_URLS = (("finance", f"nonsense://{SECRET}"),)
    [found] = channels.all_channels()
    with pytest.raises(NotSent) as error:
        channels.send(found, MESSAGE)
    assert not error.value.retriable
    assert str(error.value) == channels.fault(found)
    assert "channel 1 (finance)" in channels.fault(found)
    assert "s3cret" not in f"{found!r} {channels.fault(found)}"


# --- Their settings --------------------------------------------------------------------------------------------------


def read_addresses(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[tuple[str, str], ...]:
    monkeypatch.setattr(env, "REGISTRY", {})
    monkeypatch.setenv("ASTRA_SOME_URLS", text)
    return env.secret_addresses("ASTRA_SOME_URLS", help="…")


def test_addresses_are_set_apart_by_blanks_or_commas_and_may_be_for_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_addresses(monkeypatch, "finance=slack://a/b,tgram://c?to=1,2  json://d\nops.eu=json://e")
    assert found == (("finance", "slack://a/b"), ("", "tgram://c?to=1,2"), ("", "json://d"), ("ops.eu", "json://e"))
    assert read_addresses(monkeypatch, "  ") == ()


def test_what_is_no_address_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="number 2 is no address") as error:
        read_addresses(monkeypatch, "json://a s3cret")
    assert "s3cret" not in str(error.value)


def test_apprise_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, django; django.setup(); import jobs.notify.channels; sys.exit('apprise' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
