"""What people say of agents' work in Django admin."""

from __future__ import annotations

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from accounts.actors import actor_of
from agents.admin_lists import GradeFilter, OfRunAdmin
from agents.feedback import RetireNote, may_note
from agents.models import AgentNote
from audit.history_admin import HistoryAdmin, Link, trail_of


class FeedbackAdmin(OfRunAdmin):
    """Grades and comments. Who gave one changes it where they gave it."""

    list_display = ("id", "page", "run_link", "user_name", "grade", "beginning", "created_at", "changed_at")
    list_filter = (GradeFilter,)

    @admin.display(description="comment")
    def beginning(self, said: object) -> str:
        """Return the beginning of the comment."""
        return str(getattr(said, "comment", ""))[:80]


class AgentNoteAdmin(HistoryAdmin[AgentNote]):
    """What agents are to heed. A note's text never changes; it is retired."""

    list_display = ("id", "agent", "beginning", "user_name", "created_at", "retired_at", "retired_by")
    list_filter = (("retired_at", admin.EmptyFieldListFilter),)
    search_fields = ("agent",)
    search_help_text = "An agent’s name, whole"
    ordering = ("-id",)
    actions = ("retire",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AgentNote], search_term: str
    ) -> tuple[QuerySet[AgentNote], bool]:
        """Find the notes to an agent."""
        name = search_term.strip()
        return (queryset.filter(agent=name) if name else queryset), False

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console shows agents."""
        return reverse("agents"), "Agents in the console"

    def row_links(self, note: AgentNote) -> list[Link]:
        """Return the agent, and what the trail tells of its notes."""
        return [
            (reverse("agent", args=[note.agent]), "The agent"),
            (trail_of("agent", note.agent), "What it was told"),
        ]

    def has_retire_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person may tell agents what to heed."""
        return isinstance(request.user, User) and may_note(request.user)

    @admin.display(description="text")
    def beginning(self, note: AgentNote) -> str:
        """Return the beginning of its text."""
        return note.text[:80]

    @admin.action(description="Retire the chosen notes", permissions=["retire"])
    def retire(self, request: HttpRequest, chosen: QuerySet[AgentNote]) -> None:
        """Retire them; those that were retired before stay as they are."""
        standing = list(chosen.filter(retired_at=None).values_list("pk", flat=True))
        for note_id in standing:
            RetireNote(actor_of(request)).run(note_id)
        words = f"{len(standing)} note{'' if len(standing) == 1 else 's'} retired."
        self.message_user(request, words, messages.SUCCESS)
