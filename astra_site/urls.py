"""The site's addresses."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from accounts import preferences
from astra_site import health, problems
from astra_site.console import views as console

urlpatterns = [
    path("", console.home, name="home"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("accounts/login/", login_not_required(LoginView.as_view(redirect_authenticated_user=True)), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("accounts/theme/", preferences.set_theme, name="theme"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("astra_site.api")),
    path("console/", include("astra_site.console.urls")),
    path("problems/", problems.index, name="problems"),
    path("problems/<slug:slug>", problems.explain, name="problem"),
]
