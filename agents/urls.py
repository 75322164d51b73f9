"""The addresses of the task pages, under `/console/tasks/`."""

from __future__ import annotations

from django.urls import path

from agents import views

urlpatterns = [
    path("", views.tasks, name="tasks"),
    path("new/", views.new_task, name="task-new"),
    path("<uuid:task_id>/", views.task, name="task"),
    path("<uuid:task_id>/cancel/", views.cancel, name="task-cancel"),
    path("<uuid:task_id>/redrive/", views.redrive, name="task-redrive"),
    path("<uuid:task_id>/discard/", views.discard, name="task-discard"),
    path("<uuid:task_id>/<slug:part>.json", views.download, name="task-download"),
    path("<uuid:task_id>/steps/<int:step_id>/", views.step, name="task-step"),
    path("<uuid:task_id>/steps/<int:step_id>/<slug:part>.json", views.download_step, name="task-step-download"),
]
