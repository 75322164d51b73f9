"""Signing in, for the site and Django admin alike."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from django.contrib import admin
from django.contrib.auth import views
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from accounts import devices, gate, throttle
from accounts.actors import actor_of, client_address
from accounts.throttle import Attempt, TooManyAttempts
from audit import trail

logger = logging.getLogger(__name__)

BUSY_RETRY_S = 3
#: What the trail calls whoever could not sign in.
SOMEBODY = "somebody"
#: What a counter counts, for the trail.
WHENCE = {
    "device": "from one known browser",
    "pair": "from one address",
    "address": "from one address, for any accounts",
    "account": "from anywhere, for one account",
}


@method_decorator([login_not_required, never_cache], name="dispatch")
class LoginView(views.LoginView):
    """Django's page, with a bound on attempts. It tells nobody whether an account exists, not even by how it waits."""

    redirect_authenticated_user = True
    #: Whether the attempt's name and password were right; None if that was not looked at.
    was_right: bool | None = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Show the page, or take an attempt if there may be one now."""
        if request.method != "POST":
            return super().dispatch(request, *args, **kwargs)
        account = request.POST.get("username", "")
        try:
            attempt = throttle.begin(request, account)
        except TooManyAttempts as error:
            return self.refuse(429, f"Too many attempts to sign in. Try again in {_words(error.wait_s)}.", error.wait_s)
        try:
            # Before anything that asks the database.
            with gate.passed():
                response = super().dispatch(request, *args, **kwargs)
                if self.was_right is False:
                    self.note_failure(attempt, account)
        except gate.Busy:
            attempt.give_back()
            words = "Many people are signing in right now. Try again in a few seconds."
            return self.refuse(503, words, BUSY_RETRY_S)
        except BaseException:
            attempt.give_back()
            raise
        if self.was_right:
            attempt.succeed()
            assert isinstance(response, HttpResponse)
            devices.remember(request, response, account)
        elif self.was_right is None:
            attempt.give_back()
        return response

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Sign the person in."""
        self.was_right = True
        with transaction.atomic():
            response = super().form_valid(form)
            trail.record(actor_of(self.request), "login.succeed", "user", self.request.user.pk)
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Show the page again."""
        self.was_right = False
        return super().form_invalid(form)

    def note_failure(self, attempt: Attempt, account: str) -> None:
        """Log the attempt, and write it to the trail within bounds. What was typed as a name may be a password.

        The bounds are the same whether there is such an account or not, so that they do not tell either.
        """
        address = client_address(self.request)
        logger.warning("a sign-in failed", extra={"action": "login_failed", "address": address})
        last = throttle.may_note(account)
        if last is None and not attempt.reached:
            return
        user = User.objects.filter(username=account).first() if "\0" not in account else None
        target = user.pk if user else ""
        # Whoever it was, it is not known to be the account's owner.
        actor = replace(actor_of(self.request), user=None)
        if last is not None:
            note = "More of them within the hour are in the log alone." if last else ""
            trail.record(replace(actor, known_as=SOMEBODY), "login.fail", "user", target, note=note)
        if attempt.reached:
            trail.record(
                actor,
                "login.throttle",
                "user",
                target,
                note=f"Too many failed sign-ins {WHENCE[attempt.reached[0]]}. The last came from {address}.",
            )

    def refuse(self, status: int, words: str, retry_after_s: int) -> HttpResponse:
        """Show the page with a sentence, and no word on what was typed."""
        logger.warning("a sign-in was refused", extra={"action": "login_refused", "status": status})
        form = self.get_form_class()(self.request, initial={"username": self.request.POST.get("username", "")})
        context = self.get_context_data(form=form, refusal=words)
        return self.render_to_response(context, status=status, headers={"Retry-After": str(retry_after_s)})


@login_not_required
def for_admin(request: HttpRequest) -> HttpResponse:
    """Send whoever comes to Django admin to the one page where one signs in."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.GET.get("next") or "/admin/")
    if not request.user.is_staff:
        raise PermissionDenied("Django admin is for staff.")
    return redirect("admin:index")


def change_password(request: HttpRequest) -> HttpResponse:
    """Show Django admin's page for one's own password, and tell the trail when it was changed."""
    with transaction.atomic():
        response = admin.site.admin_view(admin.site.password_change)(request)
        if getattr(response, "url", None) == reverse("admin:password_change_done"):
            trail.record(actor_of(request), "user.change", "user", request.user.pk, after={"password": "changed"})
    return response


def note_sign_out(request: HttpRequest, user: User | None, **kwargs: object) -> None:
    """Tell the trail that somebody signed out, here or in Django admin."""
    if user is not None:
        trail.record(actor_of(request, user), "logout", "user", user.pk)


def _words(seconds: int) -> str:
    """Return a time to wait, in words."""
    if seconds <= 90:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    return f"{-(-seconds // 60)} minutes"
