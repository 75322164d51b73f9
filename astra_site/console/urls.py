"""The console's addresses."""

from __future__ import annotations

from django.urls import include, path

from astra_site.console import agents, audit_log, dead_letters, operations, queues, views

urlpatterns = [
    path("", views.overview, name="overview"),
    path("tasks/", include("agents.urls")),
    path("operations/", operations.operations, name="operations"),
    path("operations/new/", operations.new, name="operation-new"),
    path("operations/<uuid:operation_id>/", operations.operation, name="operation"),
    path("operations/<uuid:operation_id>/stop/", operations.stop, name="operation-stop"),
    path("dead-letters/", dead_letters.groups, name="dead-letters"),
    path("dead-letters/group/", dead_letters.group, name="dead-letter-group"),
    path("queues/", queues.queues, name="queues"),
    path("queues/pause/", queues.pause, name="pause"),
    path("queues/resume/", queues.resume, name="resume"),
    path("agents/", agents.agents, name="agents"),
    path("agents/<str:name>/", agents.agent, name="agent"),
    path("audit/", audit_log.audit_log, name="audit"),
]
