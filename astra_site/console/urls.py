"""The console's addresses."""

from __future__ import annotations

from django.urls import include, path

from astra_site.console import views

urlpatterns = [
    path("", views.overview, name="overview"),
    path("tasks/", include("agents.urls")),
]
