"""A person's own API tokens: seen, made and revoked by nobody but them. Admins revoke any in Django admin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import ObjectDoesNotExist
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from accounts import roles
from accounts import tokens as api_tokens
from accounts.actors import actor_of
from accounts.models import ApiToken

PAGE = 50
#: As many usable tokens may one person have: more are lost track of.
MOST = 100
NAME_LENGTH = ApiToken._meta.get_field("name").max_length or 100

#: How long a new token may live, in days; "" means until it is revoked.
LIVES = {"30": "30 days", "90": "90 days", "365": "A year", "": "Until it is revoked"}
DEFAULT_LIFE = "90"

#: Scopes that say nothing to whoever is no operator: what they open is for operators.
FOR_OPERATORS = frozenset({"metrics:read"})


@dataclass(frozen=True, slots=True)
class Shown:
    """A token as its owner sees it."""

    token: ApiToken
    state: str
    hue: str
    icon: str

    @classmethod
    def of(cls, token: ApiToken, now: datetime) -> Shown:
        """Say in what state it is."""
        if token.revoked_at is not None:
            return cls(token, "Revoked", "", "cancelled")
        if token.expires_at is not None and token.expires_at <= now:
            return cls(token, "Expired", "", "scheduled")
        return cls(token, "Usable", "good", "succeeded")

    @property
    def is_usable(self) -> bool:
        """Whether it opens anything."""
        return self.hue == "good"

    @property
    def scopes(self) -> list[tuple[str, str]]:
        """Its scopes, each with what it allows."""
        return [(scope, api_tokens.SCOPES.get(scope, "")) for scope in self.token.scopes]


@dataclass(slots=True)
class TokenForm:
    """What a new token shall be."""

    offered: Mapping[str, str]
    name: str = ""
    scopes: list[str] = field(default_factory=list)
    life: str = DEFAULT_LIFE
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, offered: Mapping[str, str], given: QueryDict) -> TokenForm:
        """Read what was filled in, and say what is wrong with it."""
        form = cls(
            offered,
            name=" ".join(given.get("name", "").split()),
            scopes=[scope for scope in dict.fromkeys(given.getlist("scope")) if scope in offered],
            life=given.get("life", DEFAULT_LIFE),
        )
        if not form.name:
            form.errors["name"] = "Say what it is for: the name is how you will know it again."
        elif len(form.name) > NAME_LENGTH:
            form.errors["name"] = f"A name may have {NAME_LENGTH} characters."
        elif "\0" in form.name:
            form.errors["name"] = "The name has a character in it that can’t be stored."
        if not form.scopes:
            form.errors["scope"] = "Choose at least one: a token without a scope opens nothing."
        if form.life not in LIVES:
            form.errors["life"] = "Choose one of these."
        return form

    @property
    def expires_at(self) -> datetime | None:
        """When it stops to open anything."""
        return timezone.now() + timedelta(days=int(self.life)) if self.life else None

    @property
    def lives(self) -> list[tuple[str, str]]:
        """The lives to choose from."""
        return list(LIVES.items())

    @property
    def scope_rows(self) -> list[tuple[str, str, bool]]:
        """Every scope on offer, what it allows, and whether it is chosen."""
        return [(scope, words, scope in self.scopes) for scope, words in self.offered.items()]


@sensitive_variables("secret")
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def tokens(request: HttpRequest) -> HttpResponse:
    """List one's tokens, and make one. The secret is in the answer to the form alone: not in an address, a session."""
    user = _person(request)
    form, made, secret, status = TokenForm(_offered(user)), None, "", 200
    if request.method == "POST":
        form = TokenForm.read(_offered(user), request.POST)
        if not form.errors and ApiToken.objects.usable(timezone.now()).filter(user=user)[:MOST].count() >= MOST:
            form.errors["form"] = f"You have {MOST} usable tokens, which is the most there may be. Revoke one first."
        if form.errors:
            status = 422
        else:
            made, secret = api_tokens.create(
                user, actor=actor_of(request), name=form.name, scopes=form.scopes, expires_at=form.expires_at
            )
            form, status = TokenForm(_offered(user)), 201
    context = {"section": "tokens", "form": form, "made": made, "secret": secret, **_list(request, user)}
    return render(request, "accounts/tokens.html", context, status=status)


@require_POST
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Revoke one of one's tokens; anybody else's looks as if it did not exist."""
    try:
        token = ApiToken.objects.select_related("user").get(pk=token_id, user=_person(request))
    except (ObjectDoesNotExist, OverflowError):
        raise Http404 from None
    if api_tokens.revoke(token, actor=actor_of(request)):
        messages.success(request, f"Revoked: {token.name}. Whoever uses it is refused from now on.")
    else:
        messages.info(request, f"{token.name} was revoked before.")
    return redirect("tokens")


def _list(request: HttpRequest, user: User) -> dict[str, Any]:
    rows = ApiToken.objects.filter(user=user).order_by("-pk").defer("digest")
    before = request.GET.get("before", "")
    is_first = not (before.isascii() and before.isdigit() and len(before) < 19)
    if not is_first:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: PAGE + 1])
    now = timezone.now()
    return {
        "shown": [Shown.of(token, now) for token in found[:PAGE]],
        "older": found[PAGE - 1].pk if len(found) > PAGE else None,
        "is_first": is_first,
    }


def _offered(user: User) -> dict[str, str]:
    """Return the scopes that are of use to a person."""
    is_operator = roles.is_operator(user)
    return {scope: words for scope, words in api_tokens.SCOPES.items() if is_operator or scope not in FOR_OPERATORS}


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
