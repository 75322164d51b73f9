"""Who may look: the console's pages are for operators, but for one's own tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts import roles

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def for_operators(view: View) -> View:
    """Refuse whoever is no operator, whatever the method."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not roles.is_operator(request.user):
            raise PermissionDenied("This page is for operators. Your own tasks are under Tasks.")
        return view(request, *args, **kwargs)

    return cast(View, checked)
