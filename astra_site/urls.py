"""The site's addresses."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from astra_site import health

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("admin/", admin.site.urls),
    path("accounts/login/", login_not_required(LoginView.as_view(redirect_authenticated_user=True)), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
]
