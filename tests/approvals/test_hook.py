"""A signed webhook decides as the user it names, once, where the policy lets it."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ImproperlyConfigured
from django.db.models import F
from django.test import Client
from pytest_django import Settings
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from approvals import hook
from approvals.claiming import Claim
from approvals.models import Approval, HookCall, Vote
from astra_site import env
from audit.models import AuditEntry
from jobs.handlers import Succeeded
from tests.jobs.drive import at_once
from tests.support import approvals
from tests.support.approvals import asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config("webhook: true"))

PATH = "/api/v1/hooks/approvals"
KEY = secrets.token_bytes(32)
OLD_KEY = secrets.token_bytes(32)


@pytest.fixture(autouse=True)
def keys(settings: Settings) -> None:
    settings.APPROVALS_HOOK_KEYS = (KEY,)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture(autouse=True)
def _rita() -> None:
    person("rita", "reviewer")


def said(about: Approval, decision: str = "approve", **more: Any) -> dict[str, Any]:
    data = {"approval_id": str(about.pk), "decision": decision, "plan_hash": about.plan_hash, "by": "rita", **more}
    return {"type": "approval.decision", "timestamp": "2026-11-21T10:00:00Z", "data": data}


def signed(body: str, key: bytes = KEY, webhook_id: str = "msg_1", at: datetime | None = None) -> dict[str, str]:
    """Return the headers of a webhook as the reference library makes them."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(webhook_id, at, body),
    }


def post(body: Any, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any]:
    """Send it, signed unless there are headers, and return the status and the answer."""
    text = body if isinstance(body, str) else json.dumps(body)
    response = Client(enforce_csrf_checks=True).post(
        PATH, text, content_type="application/json", headers=headers if headers is not None else signed(text, **more)
    )
    if response.status_code >= 400:
        assert response["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()


# --- It decides ------------------------------------------------------------------------------------------------------


def test_a_webhook_decides_as_the_user_it_names(notes: Path) -> None:
    about = asked(notes, 150)
    status, answer = post(said(about, comment="fine"))
    assert (status, answer) == (
        202,
        {"approval_id": str(about.pk), "state": "approved", "decision": "approve", "missing": 0},
    )
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
    assert (fresh(about).decided_by, fresh(about).comment) == (["rita"], "fine")
    entry = AuditEntry.objects.get(action="approval.vote")
    assert (entry.actor_name, entry.after and entry.after["way"]) == ("rita", "webhook")


def test_the_same_webhook_is_handled_once_and_answered_the_same(notes: Path) -> None:
    load(config("webhook: true, quorum: 2"))
    about = asked(notes, 150)
    first = post(said(about))
    assert first[1]["missing"] == 1
    assert post(said(about)) == first
    assert post(said(about), at=datetime.now(UTC) + timedelta(seconds=30)) == first
    assert Vote.objects.count() == 1
    assert HookCall.objects.count() == 1


def test_one_that_is_sent_again_while_it_is_handled_waits_for_its_answer(notes: Path) -> None:
    load(config("webhook: true, quorum: 2"))
    about = asked(notes, 150)
    results = at_once(*[lambda: post(said(about))] * 5)
    assert all(result == results[0] for result in results), results
    assert results[0][0] == 202  # type: ignore[index]
    assert Vote.objects.count() == 1
    assert AuditEntry.objects.filter(action="approval.vote").count() == 1


def test_a_refusal_is_answered_the_same_again(notes: Path) -> None:
    about = asked(notes, 150)
    first = post(said(about, plan_hash="0" * 64))
    assert (first[0], first[1]["type"]) == (409, "/problems/plan-changed")
    assert post(said(about)) == first, "it is the same webhook, whatever it says now"
    assert post(said(about), webhook_id="msg_2")[0] == 202


def test_one_that_came_while_somebody_was_reading_may_come_again(notes: Path) -> None:
    about = asked(notes, 150)
    Claim(reviewer("rolf")).run(about.pk)
    assert post(said(about))[1]["type"] == "/problems/claimed"
    assert not HookCall.objects.exists()
    Approval.objects.update(claimed_by=None, claimed_until=None)
    assert post(said(about))[0] == 202


# --- Who, and on what ------------------------------------------------------------------------------------------------


def test_only_where_the_policy_says_so(notes: Path) -> None:
    load(config())
    about = asked(notes, 150)
    status, answer = post(said(about))
    assert (status, answer["type"]) == (403, "/problems/may-not-decide")
    assert "lets no webhook decide" in answer["detail"]
    assert fresh(about).state == "pending"


def test_only_as_somebody_who_is_active_and_may_decide(notes: Path) -> None:
    about = asked(notes, 150)
    person("ulla", "user")
    gone = person("gone", "reviewer")
    gone.is_active = False
    gone.save()
    for number, name in enumerate(("ulla", "gone", "nobody"), start=2):
        status, answer = post(said(about, by=name), webhook_id=f"msg_{number}")
        assert (status, answer["type"]) == (403, "/problems/may-not-decide"), name
    assert fresh(about).state == "pending"


def test_a_request_that_is_unknown_is_not_found(notes: Path) -> None:
    about = approvals.approval(endpoint="pay.v1")
    status, answer = post(said(about, approval_id="00000000-0000-0000-0000-000000000000"))
    assert (status, answer["type"]) == (404, "/problems/unknown-approval")


def test_a_decided_one_says_by_whom(notes: Path) -> None:
    about = asked(notes, 150)
    assert post(said(about))[0] == 202
    status, answer = post(said(about), webhook_id="msg_2")
    assert (status, answer["type"]) == (409, "/problems/already-decided")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"decision": "approve_with_changes"}, "data.decision"),
        ({"decision": "happened"}, "data.decision"),
        ({"by": None}, "data.by"),
        ({"approval_id": "x"}, "data.approval_id"),
        ({"comment": "x" * 3_000}, "data.comment"),
    ],
)
def test_what_is_no_decision_is_refused_with_its_place(notes: Path, change: dict[str, Any], where: str) -> None:
    about = asked(notes, 150)
    status, answer = post(said(about, **change))
    assert status == 422
    assert answer["detail"].startswith(f"{where}: ")
    assert fresh(about).state == "pending"
    assert not HookCall.objects.exists()


@pytest.mark.parametrize(
    ("body", "status"), [("{", 400), ("[]", 422), ('{"type": "other"}', 422), ("[" * 10_000, 422), ("x" * 70_000, 413)]
)
def test_what_is_no_event_is_refused(body: str, status: int) -> None:
    assert post(body)[0] == status


# --- The signature ---------------------------------------------------------------------------------------------------


def test_without_a_secret_there_is_no_such_address(settings: Settings, notes: Path) -> None:
    settings.APPROVALS_HOOK_KEYS = ()
    about = asked(notes, 150)
    status, answer = post(said(about))
    assert (status, answer["type"]) == (404, "/problems/not-found")
    assert answer["detail"] == f"There is nothing at {PATH}."


def test_either_of_two_keys_is_good(settings: Settings, notes: Path) -> None:
    settings.APPROVALS_HOOK_KEYS = (KEY, OLD_KEY)
    about = asked(notes, 150)
    assert post(said(about), key=OLD_KEY)[0] == 202
    assert post(said(about), key=KEY, webhook_id="msg_2")[0] == 409


def test_one_good_signature_of_several_is_enough(notes: Path) -> None:
    body = json.dumps(said(asked(notes, 150)))
    headers = signed(body)
    good, bad = headers["webhook-signature"], signed(body, OLD_KEY)["webhook-signature"]
    assert post(body, {**headers, "webhook-signature": f"v1a,xxxx {bad} nonsense v1,% {good}"})[0] == 202


BAD: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "another key": lambda good: {**good, "webhook-signature": "v1," + base64.b64encode(b"x" * 32).decode()},
    "no version": lambda good: {**good, "webhook-signature": good["webhook-signature"].removeprefix("v1,")},
    "another version": lambda good: {**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
    "empty": lambda good: {**good, "webhook-signature": ""},
    "half": lambda good: {**good, "webhook-signature": good["webhook-signature"][:-8]},
    "not ASCII": lambda good: {**good, "webhook-signature": "v1,é"},
    "another id": lambda good: {**good, "webhook-id": "msg_2"},
    "a long id": lambda good: {**good, "webhook-id": "x" * 201},
    "another time": lambda good: {**good, "webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)},
    "no number": lambda good: {**good, "webhook-timestamp": "now"},
    "a negative time": lambda good: {**good, "webhook-timestamp": "-1"},
    "other digits": lambda good: {**good, "webhook-timestamp": "١٢٣"},
    "no id": lambda good: {name: value for name, value in good.items() if name != "webhook-id"},
    "no time": lambda good: {name: value for name, value in good.items() if name != "webhook-timestamp"},
    "nothing": lambda good: {},
}


@pytest.mark.parametrize("how", BAD)
def test_what_is_not_well_signed_is_refused_and_not_remembered(notes: Path, how: str) -> None:
    about = asked(notes, 150)
    body = json.dumps(said(about))
    status, answer = post(body, BAD[how](signed(body)))
    assert (status, answer["type"]) == (401, "/problems/bad-signature")
    assert fresh(about).state == "pending"
    assert not HookCall.objects.exists()


def test_a_body_that_was_altered_is_refused(notes: Path) -> None:
    about = asked(notes, 150)
    body = json.dumps(said(about, "reject", comment="no"))
    assert post(body.replace("reject", "approve"), signed(body))[0] == 401


@pytest.mark.parametrize(("ago_s", "is_good"), [(299, True), (301, False), (-299, True), (-302, False)])
def test_a_webhook_is_good_for_five_minutes(ago_s: int, is_good: bool) -> None:
    body = '{"type": "ünïcode"}'
    with time_machine.travel(datetime(2026, 11, 21, 10, tzinfo=UTC), tick=False):
        headers = signed(body, at=datetime.now(UTC) - timedelta(seconds=ago_s))
        if is_good:
            assert hook.verify(headers, body.encode()) == "msg_1"
            Webhook(KEY).verify(body, headers)
        else:
            with pytest.raises(hook.BadSignature):
                hook.verify(headers, body.encode())
            with pytest.raises(WebhookVerificationError):
                Webhook(KEY).verify(body, headers)


# --- The rest --------------------------------------------------------------------------------------------------------


def test_webhooks_are_known_again_for_a_week(notes: Path) -> None:
    about = asked(notes, 150)
    post(said(about))
    HookCall.objects.update(at=F("at") - timedelta(days=6, hours=23))
    assert hook.sweep() == 0
    assert post(said(about))[0] == 202
    HookCall.objects.update(at=F("at") - timedelta(hours=2))
    assert hook.sweep() == 1
    assert not HookCall.objects.exists()


def read_keys(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[bytes, ...]:
    monkeypatch.setattr(env, "REGISTRY", {})
    monkeypatch.setenv("ASTRA_SOME_SECRET", text)
    return env.signing_keys("ASTRA_SOME_SECRET", help="…")


def test_keys_are_read_as_standard_webhooks_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = (f"whsec_{base64.b64encode(key).decode()}" for key in (KEY, OLD_KEY))
    assert read_keys(monkeypatch, f"{new} {old}") == (KEY, OLD_KEY)
    assert read_keys(monkeypatch, "") == ()


@pytest.mark.parametrize("text", ["s3cret", "whsec_s3cret!", "whsec_c2hvcnQ=", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"])
def test_a_key_that_is_none_stops_every_command_unseen(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="key number 1") as error:
        read_keys(monkeypatch, text)
    assert text not in str(error.value)
