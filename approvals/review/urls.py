"""The addresses of the reviews."""

from __future__ import annotations

from django.urls import path

from approvals.review import views

urlpatterns = [
    path("morning/", views.morning, name="approvals-morning"),
    path("evening/", views.evening, name="approvals-evening"),
    path("review/<str:kind>/tasks/", views.plan, name="approvals-plan"),
    path("review/<str:kind>/grades/<uuid:run_id>/", views.grade, name="approvals-grade"),
    path("review/<str:kind>/notes/", views.note, name="approvals-note"),
    path("review/<str:kind>/notes/<int:note_id>/retire/", views.retire_note, name="approvals-note-retire"),
    path("review/<str:kind>/done/", views.done, name="approvals-review-done"),
]
