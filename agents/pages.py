"""Answer with a page, or with the one region of it that htmx asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def page_or_region(
    request: HttpRequest, template: str, region: str, context: Mapping[str, Any], *, status: int = 200
) -> HttpResponse:
    """Render a page, or, if htmx asks for what goes into the element ``region``, the template's part of that name."""
    asks = bool(request.htmx) and request.htmx.target == region  # type: ignore[attr-defined]
    return render(request, f"{template}#{region}" if asks else template, dict(context), status=status)
