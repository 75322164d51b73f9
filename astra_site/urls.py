"""The site's addresses."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path

from accounts import login, preferences, token_views
from agents.chat import views as chat
from astra_site import health, metrics, problems

urlpatterns = [
    path("", chat.new, name="home"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("accounts/login/", login.LoginView.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("accounts/tokens/", token_views.tokens, name="tokens"),
    path("accounts/tokens/<int:token_id>/revoke/", token_views.revoke, name="token-revoke"),
    path("accounts/theme/", preferences.set_theme, name="theme"),
    path("admin/login/", login.for_admin),
    path("admin/password_change/", login.change_password),
    path("admin/", admin.site.urls),
    path("api/v1/", include("astra_site.api")),
    path("approvals/", include("approvals.urls")),
    path("chat/", include("agents.chat.urls")),
    path("console/", include("astra_site.console.urls")),
    path("problems/", problems.index, name="problems"),
    path("problems/<slug:slug>", problems.explain, name="problem"),
]

handler400 = "astra_site.outage.bad_request"
handler500 = "astra_site.outage.server_error"
