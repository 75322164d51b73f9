"""Where people decide."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path

from approvals import decision_views, inbox_views, link_views

urlpatterns: list[URLPattern | URLResolver] = [
    path("", inbox_views.inbox, name="approvals"),
    path("claim/", inbox_views.claim, name="approvals-claim"),
    path("", include("approvals.review.urls")),
    path("reject/", inbox_views.reject, name="approvals-reject"),
    path("link/<str:token>/", link_views.link, name="approval-link"),
    path("<uuid:approval_id>/", decision_views.approval, name="approval"),
    path("<uuid:approval_id>/steps/<int:place>/", decision_views.step, name="approval-step"),
    path("<uuid:approval_id>/pulse/", decision_views.pulse, name="approval-pulse"),
    path("<uuid:approval_id>/decide/", decision_views.decide, name="approval-decide"),
    path("<uuid:approval_id>/changes/", decision_views.changes, name="approval-changes"),
    path("<uuid:approval_id>/claim/", decision_views.claim, name="approval-claim"),
    path("<uuid:approval_id>/release/", decision_views.release, name="approval-release"),
    path("<uuid:approval_id>/delegate/", decision_views.delegate, name="approval-delegate"),
    path("<uuid:approval_id>/resolve/", decision_views.resolve, name="approval-resolve"),
]
