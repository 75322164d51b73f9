"""What a person prefers, kept in a cookie so that the first paint is right, before and after signing in."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

#: The themes there are besides the system's own.
THEMES = ("light", "dark")
COOKIE = "theme"
A_YEAR_S = 365 * 24 * 3600


@login_not_required
@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Keep the chosen theme, or forget it (then it is the system's), and go back to the page."""
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
        back = "/"
    response = redirect(back)
    theme = request.POST.get("theme", "")
    if theme in THEMES:
        response.set_cookie(COOKIE, theme, max_age=A_YEAR_S, samesite="Lax", secure=request.is_secure())
    else:
        response.delete_cookie(COOKIE, samesite="Lax")
    return response


def chosen_theme(request: HttpRequest) -> str:
    """Return the chosen theme, or an empty string."""
    theme = request.COOKIES.get(COOKIE, "")
    return theme if theme in THEMES else ""
