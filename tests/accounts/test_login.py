"""Signing in: guesses are slowed down, the account's owner is not kept out, and nobody learns who has an account."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import cast

import pytest
import redis
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from pytest_django import Settings

from accounts import devices, gate, throttle
from accounts.actors import client_address
from accounts.throttle import PER_ACCOUNT, PER_ACCOUNT_AND_ADDRESS, PER_ADDRESS, TooManyAttempts
from audit.models import AuditEntry

LOGIN = "/accounts/login/"


@pytest.fixture(autouse=True)
def quick(settings: Settings) -> None:
    """Look at passwords with a hash that takes no time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def olga(db: None) -> User:
    return User.objects.create_user("olga", password="right")


def sign_in(password: str, *, name: str = "olga", client: Client | None = None, **headers: str) -> HttpResponse:
    answer = (client or Client()).post(LOGIN, {"username": name, "password": password}, headers=headers)
    return cast(HttpResponse, answer)


def guess(times: int, *, name: str = "olga", address: str = "192.0.2.1") -> None:
    """Count attempts that stay wrong, without asking the site."""
    for number in range(times):
        throttle.begin(request_from(address), name.replace("#", str(number)))


def request_from(address: str, **cookies: str) -> HttpRequest:
    request: HttpRequest = RequestFactory().post(LOGIN, REMOTE_ADDR=address)
    request.COOKIES.update(cookies)
    return request


def has_passed(response: HttpResponse) -> bool:
    return response.status_code == 302


def wait_out(valkey: redis.Redis) -> None:
    """Let the waits come to their end."""
    assert valkey.delete(*valkey.keys("astra:signing-in:*:wait")) > 0


def test_after_too_many_wrong_passwords_even_the_right_one_has_to_wait(olga: User, valkey: redis.Redis) -> None:
    for _ in range(PER_ACCOUNT_AND_ADDRESS):
        assert b"Please enter a correct username and password" in sign_in("wrong").content
    refused = sign_in("right")
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= throttle.FIRST_WAIT_S
    page = refused.content.decode()
    assert "Too many attempts to sign in. Try again in" in page
    assert 'value="olga"' in page
    assert "no-store" in refused["Cache-Control"]
    wait_out(valkey)
    assert has_passed(sign_in("right"))


@pytest.mark.parametrize("name", ["ｏlga", "ｏｌｇａ", "𝓸𝓵𝓰𝓪", " olga\u3000", "OLGA"])
def test_an_account_is_counted_under_every_way_to_write_its_name(olga: User, name: str) -> None:
    guess(PER_ACCOUNT_AND_ADDRESS, address="127.0.0.1")

    assert sign_in("right", name=name).status_code == 429


def test_each_further_attempt_makes_the_wait_twice_as_long_up_to_a_bound(olga: User, valkey: redis.Redis) -> None:
    guess(PER_ACCOUNT_AND_ADDRESS - 1, address="127.0.0.1")
    waits = []
    for _ in range(8):
        sign_in("wrong")
        waits.append(int(sign_in("wrong")["Retry-After"]))
        wait_out(valkey)
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_refused_attempt_does_not_make_the_wait_longer(olga: User) -> None:
    guess(PER_ACCOUNT_AND_ADDRESS, address="127.0.0.1")
    waits = [int(sign_in("wrong")["Retry-After"]) for _ in range(5)]
    assert max(waits) <= throttle.FIRST_WAIT_S


def test_counts_and_waits_do_not_live_for_ever(olga: User, valkey: redis.Redis) -> None:
    sign_in("wrong")
    assert [0 < valkey.ttl(key) <= throttle.WINDOW_S for key in valkey.keys("astra:signing-in:*")] == [True] * 3
    guess(PER_ACCOUNT_AND_ADDRESS, address="127.0.0.2")
    assert all(0 < valkey.ttl(key) <= throttle.REMEMBER_S for key in valkey.keys("astra:signing-in:*"))


def test_a_right_password_wipes_out_the_wrong_ones_before_it(olga: User) -> None:
    for _ in range(3):
        for _ in range(PER_ACCOUNT_AND_ADDRESS - 1):
            sign_in("wrong")
        assert has_passed(sign_in("right"))


def test_many_who_sign_in_from_one_address_are_not_counted_against_it(olga: User) -> None:
    for _ in range(PER_ADDRESS + 1):
        assert has_passed(sign_in("right"))


def test_another_address_may_sign_in_meanwhile(olga: User) -> None:
    guess(PER_ACCOUNT_AND_ADDRESS)
    with pytest.raises(TooManyAttempts):
        guess(1)
    assert has_passed(sign_in("right"))


def test_an_address_that_tries_many_accounts_has_to_wait(olga: User) -> None:
    guess(PER_ADDRESS, name="user #", address="127.0.0.1")
    assert sign_in("right").status_code == 429


def test_the_addresses_of_one_subscriber_are_one() -> None:
    for number in range(PER_ACCOUNT_AND_ADDRESS):
        throttle.begin(request_from(f"2001:db8::{number}"), "olga")
    with pytest.raises(TooManyAttempts):
        throttle.begin(request_from("2001:db8::ffff"), "olga")
    throttle.begin(request_from("2001:db8:0:1::"), "olga")


def test_guesses_from_everywhere_keep_strangers_out_but_not_a_browser_that_was_there_before(olga: User) -> None:
    known = Client()
    assert has_passed(sign_in("right", client=known))
    known.post("/accounts/logout/")
    for number in range(PER_ACCOUNT // 5):
        guess(5, address=f"192.0.2.{number}")
    assert sign_in("right").status_code == 429
    assert has_passed(sign_in("right", client=known))


def test_a_known_browser_is_counted_too(olga: User) -> None:
    known = Client()
    sign_in("right", client=known)
    known.post("/accounts/logout/")
    for _ in range(PER_ACCOUNT_AND_ADDRESS):
        assert sign_in("wrong", client=known).status_code == 200
    assert sign_in("right", client=known).status_code == 429


def test_a_known_browser_is_known_for_its_own_account_alone_and_by_our_signature(olga: User) -> None:
    known = Client()
    cookie = sign_in("right", client=known).cookies[devices.COOKIE]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    name = devices.known(request_from("", astra_device=cookie.value), "OLGA ")
    assert name
    assert devices.known(request_from("", astra_device=cookie.value), "otto") == ""
    assert devices.known(request_from("", astra_device=cookie.value + "x"), "olga") == ""
    again = sign_in("right", client=known)
    assert devices.COOKIE not in again.cookies  # who is signed in already is sent on
    known.post("/accounts/logout/")
    renewed = sign_in("right", client=known).cookies[devices.COOKIE]
    assert devices.known(request_from("", astra_device=renewed.value), "olga") == name


def test_an_account_that_does_not_exist_is_answered_as_one_that_does(olga: User) -> None:
    pages = []
    for name in ("olga", "nora"):
        answers = [sign_in("wrong", name=name) for _ in range(PER_ACCOUNT_AND_ADDRESS + 1)]
        assert [answer.status_code for answer in answers] == [200] * PER_ACCOUNT_AND_ADDRESS + [429]
        pages.append(answers[0].content.decode().replace(name, "NAME"))
    assert len(pages[0]) == len(pages[1])


def test_the_trail_tells_of_too_many_once_and_of_no_name_that_is_none(olga: User) -> None:
    for name in ("olga", "my secret password", "a\0b"):
        for _ in range(PER_ACCOUNT_AND_ADDRESS + 3):
            sign_in("wrong", name=name)
    told = AuditEntry.objects.filter(action="login.throttle")
    found = [(entry.action, entry.actor_name, entry.target_id, entry.address) for entry in told]
    about = [str(olga.pk), "", ""]
    assert found == [("login.throttle", "astra", target, "127.0.0.1") for target in about][::-1]
    notes = [entry.note for entry in told]
    assert set(notes) == {"Too many failed sign-ins from one address. The last came from 127.0.0.1."}


def test_attempts_at_the_same_moment_do_not_slip_past_the_bound() -> None:
    def attempt(_: int) -> bool:
        try:
            guess(1)
        except TooManyAttempts:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(64))) == PER_ACCOUNT_AND_ADDRESS


def test_behind_a_trusted_proxy_the_last_address_it_tells_counts(settings: Settings) -> None:
    request = RequestFactory().post(LOGIN, REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert client_address(request) == "10.0.0.1"
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert client_address(request) == "192.0.2.7"


def test_without_redis_one_can_still_sign_in(olga: User, settings: Settings) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    for _ in range(PER_ACCOUNT_AND_ADDRESS + 1):
        assert sign_in("wrong").status_code == 200
    assert has_passed(sign_in("right"))


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many passwords are being looked at as may be, and nobody waits for long."""
    monkeypatch.setattr(gate, "WAIT_S", 0.01)
    with ExitStack() as stack:
        for _ in range(gate.AT_ONCE):
            stack.enter_context(gate.passed())
        yield


@pytest.mark.usefixtures("crowd")
def test_a_crowd_is_asked_to_come_back_and_its_attempts_are_not_counted(olga: User, valkey: redis.Redis) -> None:
    for _ in range(PER_ACCOUNT_AND_ADDRESS + 1):
        answer = sign_in("right")
        assert (answer.status_code, answer["Retry-After"]) == (503, "3")
    assert "Many people are signing in right now." in answer.content.decode()
    assert {valkey.get(key) for key in valkey.keys("astra:signing-in:*")} == {b"0"}


@pytest.mark.usefixtures("crowd")
def test_a_crowd_keeps_nobody_from_the_page_itself(db: None) -> None:
    assert Client().get(LOGIN).status_code == 200


def test_only_a_few_wait_for_their_turn() -> None:
    with ExitStack() as stack:
        for _ in range(gate.AT_ONCE):
            stack.enter_context(gate.passed())
        with ThreadPoolExecutor(gate.WAITING + 1) as pool:
            waiting = [pool.submit(enter) for _ in range(gate.WAITING + 1)]
            # One of them finds no place to wait, and says so at once; the others are let in when we leave.
            refused = next(one for one in iter(lambda: next((w for w in waiting if w.done()), None), object()) if one)
            assert isinstance(refused.exception(), gate.Busy)
            stack.close()
            assert sum(one.exception() is None for one in waiting) == gate.WAITING


def enter() -> None:
    with gate.passed():
        pass


def test_django_admin_is_entered_through_the_same_page(olga: User) -> None:
    client = Client()
    assert client.get("/admin/", follow=True).redirect_chain[-1][0] == f"{LOGIN}?next=/admin/"
    assert client.post("/admin/login/", {"username": "olga", "password": "right"})["Location"].startswith(LOGIN)
    client.force_login(olga)
    assert client.get("/admin/login/?next=/admin/").status_code == 403
    olga.is_staff = True
    olga.save()
    assert client.get("/admin/login/?next=https://evil.example/")["Location"] == "/admin/"


def told() -> list[tuple[str, str, str, str | None]]:
    """Return what the trail tells, the oldest first."""
    return list(AuditEntry.objects.order_by("id").values_list("action", "actor_name", "target_id", "address"))


def test_signing_in_and_out_is_in_the_trail(olga: User) -> None:
    client = Client()
    sign_in("right", client=client)
    client.post("/accounts/logout/")
    found = [("login.succeed", "olga", str(olga.pk), "127.0.0.1"), ("logout", "olga", str(olga.pk), "127.0.0.1")]
    assert told() == found


def test_a_failed_sign_in_is_in_the_trail_without_what_was_typed(olga: User) -> None:
    sign_in("wrong")
    sign_in("wrong", name="my secret password")
    assert told() == [
        ("login.fail", "somebody", str(olga.pk), "127.0.0.1"),
        ("login.fail", "somebody", "", "127.0.0.1"),
    ]
    assert "secret" not in str(list(AuditEntry.objects.values()))


def test_failed_sign_ins_do_not_flood_the_trail(olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "NOTED_PER_NAME", 2)
    monkeypatch.setattr(throttle, "NOTED_IN_ALL", 5)
    for name in ("olga", "nobody", "noone"):
        for _ in range(4):
            sign_in("wrong", name=name)
    notes = list(AuditEntry.objects.filter(action="login.fail").order_by("id").values_list("note", flat=True))
    last = "More of them within the hour are in the log alone."
    assert notes == ["", last, "", last, last]


def test_the_trail_has_the_address_that_a_trusted_proxy_tells(olga: User, settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    Client().post(LOGIN, {"username": "olga", "password": "right"}, headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert [address for *_, address in told()] == ["192.0.2.7"]
