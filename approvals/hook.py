"""Decisions by a signed webhook (Standard Webhooks), where the policy allows it. The same one is handled once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from ninja import Router, Schema
from pydantic import ConfigDict, Field, ValidationError

from accounts.actors import actor_of
from accounts.problems import CONTENT_TYPE, NotFound, Problem
from agents import payload
from agents.runtime.errors import BadInput
from approvals.deciding import Decide
from approvals.errors import Claimed, MayNot, UnknownApproval
from approvals.models import Approval, HookCall
from jobs.actions import MAX_NOTE

router = Router(tags=["approvals"])

NAME = "approvals"
#: A decision is a few hundred bytes.
MAX_BYTES = 64 << 10
MAX_ID = HookCall._meta.get_field("webhook_id").max_length or 200
#: So far may the sender's clock be from ours: an older one was held back by somebody.
TOLERANCE_S = 300
#: So long the same webhook is known again.
KEPT = timedelta(days=7)
SWEEP_EVERY_S = 600.0
SWEPT = 5_000


class BadSignature(Problem):
    """The webhook is not signed with a key that this site knows, or was signed too long ago.

    Sign it as Standard Webhooks says, with the secret of `ASTRA_APPROVALS_HOOK_SECRET` and a clock set by NTP.
    """

    slug, title, status = "bad-signature", "The webhook's signature is not good", 401


class _Strict(Schema):
    model_config = ConfigDict(extra="ignore")


class HookDecision(_Strict):
    """Who decides what."""

    approval_id: UUID
    decision: Literal["approve", "request_changes", "reject"]
    plan_hash: str = Field(max_length=64)
    comment: str = Field("", max_length=MAX_NOTE)
    by: str = Field(max_length=150, description="The user name of whoever decides: they must be allowed to.")


class HookEvent(_Strict):
    """A Standard Webhooks body."""

    type: Literal["approval.decision"]
    timestamp: str = ""
    data: HookDecision


class HookOutcome(Schema):
    """What came of a decision: ``missing`` votes are still needed before the plan is approved."""

    approval_id: UUID
    state: str
    decision: str
    missing: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a webhook is answered, the first time and again."""

    status: int
    body: Mapping[str, Any]

    def response(self) -> HttpResponse:
        """Return it as a response."""
        kind = "application/json" if self.status < 400 else CONTENT_TYPE
        return JsonResponse(dict(self.body), status=self.status, content_type=kind)


def _body_schema() -> dict[str, Any]:
    """Return the schema of the body, whole: it is read from its bytes, so django-ninja does not know of it."""
    found = HookEvent.model_json_schema()
    del found["$defs"]
    found["properties"]["data"] = HookDecision.model_json_schema()
    return found


_HEADERS = [
    {"in": "header", "name": name, "required": True, "schema": {"type": "string"}, "description": words}
    for name, words in (
        ("webhook-id", "Names the message: the same one is handled once, and gets the same answer again."),
        ("webhook-timestamp", "Seconds since 1970, within five minutes of now."),
        (
            "webhook-signature",
            "`v1,` and the base64 of the HMAC-SHA256 over id, timestamp and body; several by blanks.",
        ),
    )
]


@router.post(
    "/hooks/approvals",
    auth=None,
    response={202: HookOutcome},
    openapi_extra={
        "security": [],
        "parameters": _HEADERS,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _body_schema()}},
        },
    },
    summary="Decide by a signed webhook",
)
def decide_by_webhook(request: HttpRequest) -> HttpResponse:
    """Decide as the user that a webhook names, where the policy of the request says `webhook: true`."""
    if not settings.APPROVALS_HOOK_KEYS:
        raise NotFound(f"There is nothing at {request.path}.")
    if len(request.body) > MAX_BYTES:
        raise payload.PayloadTooLarge(f"The body may have {MAX_BYTES} bytes.")
    webhook_id = verify(request.headers, request.body)
    event = _read(request.body)
    return handle(request, webhook_id, event.data).response()


def verify(headers: Mapping[str, str], body: bytes) -> str:
    """Return the id of a webhook whose signature is good.

    Raises:
        BadSignature: it is not, or it is too old.
    """
    webhook_id, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not webhook_id or not sent or not headers.get("webhook-signature"):
        raise BadSignature("Send the headers webhook-id, webhook-timestamp and webhook-signature.")
    if len(webhook_id) > MAX_ID or "\0" in webhook_id:
        raise BadSignature(f"webhook-id may have {MAX_ID} characters.")
    if not (sent.isascii() and sent.isdigit() and len(sent) <= 12):
        raise BadSignature("webhook-timestamp is a whole number of seconds since 1970.")
    if abs(timezone.now().timestamp() - int(sent)) > TOLERANCE_S:
        raise BadSignature("webhook-timestamp is more than five minutes from now.")
    signed = f"{webhook_id}.{sent}.".encode("utf-8", "surrogateescape") + body
    known = [hmac.digest(key, signed, hashlib.sha256) for key in settings.APPROVALS_HOOK_KEYS]
    given = _signatures(headers["webhook-signature"])
    # Each is compared, whatever was found before.
    if not any([hmac.compare_digest(ours, theirs) for ours in known for theirs in given]):  # noqa: C419
        raise BadSignature("No signature of the webhook was made with a key that this site knows.")
    return webhook_id


def handle(request: HttpRequest, webhook_id: str, said: HookDecision) -> Answer:
    """Do what a webhook says, unless it was done; return what it was answered then.

    Of two that come at once the second waits for the first. One that was refused because somebody was reading the
    request is no answer for ever: it may be sent again.
    """
    with transaction.atomic():
        earlier = _earlier(webhook_id)
        if earlier is not None:
            return earlier
        try:
            with transaction.atomic():
                answer = Answer(202, _decide(request, said))
        except Claimed:
            raise
        except Problem as problem:
            answer = Answer(problem.status, problem.body())
        HookCall.objects.filter(hook=NAME, webhook_id=webhook_id).update(status=answer.status, answer=dict(answer.body))
    return answer


def sweep() -> int:
    """Forget webhooks that are too old to come again; return how many."""
    old = HookCall.objects.filter(at__lt=Now() - KEPT).order_by("at").values("pk")[:SWEPT]
    return HookCall.objects.filter(pk__in=old).delete()[0]


def _earlier(webhook_id: str) -> Answer | None:
    """Claim a webhook; return what it was answered if somebody had claimed it. Waits for whoever is at it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO approvals_hookcall (hook, webhook_id, status, answer) VALUES (%s, %s, 0, '{}')"
            " ON CONFLICT (hook, webhook_id) DO NOTHING",
            [NAME, webhook_id],
        )
        if cursor.rowcount:
            return None
    call = HookCall.objects.filter(hook=NAME, webhook_id=webhook_id).first()
    if call is None:
        raise IntegrityError("a webhook was forgotten in this moment")
    return Answer(call.status, call.answer)


def _decide(request: HttpRequest, said: HookDecision) -> dict[str, Any]:
    user = User.objects.filter(username=said.by, is_active=True).first()
    approval = Approval.objects.filter(pk=said.approval_id).only("webhook").first()
    if approval is None:
        raise UnknownApproval(f"There is no approval {said.approval_id}.")
    if not approval.webhook:
        raise MayNot("The policy of this request lets no webhook decide.")
    if user is None:
        raise MayNot(f"Nobody called {said.by!r} may decide on this.")
    actor = actor_of(request, user)
    outcome = Decide(actor, said.decision, said.plan_hash, said.comment, way="webhook").run(said.approval_id)
    found = outcome.approval
    return {
        "approval_id": str(found.pk),
        "state": found.state,
        "decision": found.decision,
        "missing": outcome.missing,
    }


def _read(body: bytes) -> HookEvent:
    """Read a body.

    Raises:
        Problem, BadInput: it is no decision.
    """
    try:
        return HookEvent.model_validate(payload.parse(body))
    except ValidationError as error:
        errors = [{"loc": list(one["loc"]), "msg": one["msg"]} for one in error.errors()]
        first = errors[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: {first['msg']}" if where else str(first["msg"]), errors=errors) from None


def _signatures(header: str) -> list[bytes]:
    found = []
    for one in header.split():
        version, _, text = one.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(text, validate=True))
            except (ValueError, binascii.Error):
                continue
    return found
