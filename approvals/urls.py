"""Where people decide."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

from approvals import inbox_views, link_views

urlpatterns: list[URLPattern | URLResolver] = [
    path("", inbox_views.inbox, name="approvals"),
    path("claim/", inbox_views.claim, name="approvals-claim"),
    path("", include("approvals.review.urls")),
    path("reject/", inbox_views.reject, name="approvals-reject"),
    path("link/<str:token>/", link_views.link, name="approval-link"),
]
