"""Django admin as this house has it: its tables in the order of use, each with a word on what it is for."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest

#: Groups of the index, and what each table in them is for. What is missing here stands under its app at the end.
GROUPS: dict[str, dict[str, str]] = {
    "Work": {
        "jobs.Job": "Every task in the queue: its state, its attempts. Cancel, redrive and discard.",
        "agents.Run": "What a task asked of an agent, what came out, what it cost.",
        "agents.Step": "The journal: each model call and tool of a run.",
        "jobs.JobEvent": "What happened to tasks, in order.",
        "jobs.Wait": "What parked tasks wait for.",
        "jobs.Hold": "What may not start now, and why. Place and lift them.",
        "jobs.BulkOperation": "Changes of many tasks at once, and how far they came.",
    },
    "Approvals": {
        "approvals.Approval": "What people are asked to decide, and how it ended.",
        "approvals.Vote": "What each of them said.",
        "approvals.Viewing": "Who looked at which version of a plan.",
        "agents.Effect": "Calls that did something to the world outside, each once.",
        "approvals.DecisionLink": "Links in mails with which one person may decide once.",
        "approvals.HookCall": "Webhooks that decided.",
        "approvals.Review": "Morning and evening reviews that were finished.",
    },
    "People": {
        "auth.User": "Who may sign in, and their roles.",
        "auth.Group": "The roles: admin, operator, reviewer, user.",
        "accounts.ApiToken": "Tokens of the HTTP API. Revoke them.",
    },
    "Trail": {
        "audit.AuditEntry": "Who did what, when, from where, before and after.",
        "audit.AuditSeal": "The chain that shows whether the trail was tampered with.",
    },
    "Shop": {
        "agents.ShopOrder": "The example agent’s shop: what was sold, and how much of it was paid back.",
        "agents.ShopRefund": "Each refund, and the task that paid it.",
    },
    "Chat": {
        "agents.Conversation": "Who chats with what.",
        "agents.Message": "What was said.",
        "agents.Memory": "What agents keep of users. Delete what is to be forgotten.",
    },
    "Agents": {
        "agents.AgentVersion": "Versions of agents, as astra.yml declared them.",
        "agents.Endpoint": "Public names, each an agent in one mode.",
        "agents.ConfigLoad": "Loads of astra.yml that changed something.",
        "agents.Score": "Runs that were judged.",
        "agents.Feedback": "What people said of runs: grades, comments.",
        "agents.AgentNote": "What agents are to heed from now on. Retire what is out of date.",
    },
    "Machinery": {
        "jobs.Worker": "Processes that run tasks, and their leases.",
        "jobs.LaneSample": "What lanes looked like, minute by minute.",
        "agents.RunStat": "Runs that ended, counted by the minute.",
        "agents.RunStatCursor": "Up to when they are counted.",
        "jobs.IdempotencyKey": "Which requests were one.",
    },
}


class AstraAdminSite(AdminSite):
    """The admin's pages."""

    site_title = "Astra administration"
    site_header = "Astra administration"
    index_title = "Every table"
    #: The console is linked in the header.
    site_url = None

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Return the tables by group; those of one app where its page asks for them."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        tables = {table["model"]._meta.label: table for app in apps for table in app["models"]}
        groups = [
            {
                "name": name,
                "app_label": name.lower(),
                "app_url": "",
                "models": [
                    {**tables.pop(label), "words": words} for label, words in of_group.items() if label in tables
                ],
            }
            for name, of_group in GROUPS.items()
        ]
        rest = [
            {**app, "models": [table for table in app["models"] if table["model"]._meta.label in tables]}
            for app in apps
        ]
        return [group for group in [*groups, *rest] if group["models"]]


class AstraAdminConfig(AdminConfig):
    """Django's admin, with our site."""

    default_site = "astra_site.admin_site.AstraAdminSite"
