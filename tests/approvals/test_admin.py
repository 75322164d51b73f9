"""Approvals in Django admin: found by id and agent, read with their votes, changed by nobody; notes are retired."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from accounts import roles
from agents.models import AgentNote
from approvals.models import Approval, DecisionLink, Vote
from audit.models import AuditEntry
from tests.support.approvals import approval
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db

LIST = "/admin/approvals/approval/"
NOTES = "/admin/agents/agentnote/"

_config = loaded()


@pytest.fixture
def root(db: None) -> Client:
    """An admin's browser."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def found(client: Client, **query: str) -> list[Approval]:
    return list(client.get(LIST, query).context["cl"].result_list)


def test_requests_are_found_by_id_by_their_task_and_by_agent(root: Client) -> None:
    wanted, _ = approval(), approval(agent="other")
    for text in (str(wanted.pk), str(wanted.run_id), "helper"):
        assert found(root, q=text) == [wanted], text
    assert found(root, q="nobody") == []


def test_requests_are_filtered_by_state_kind_and_what_happens_at_the_deadline(root: Client) -> None:
    pending, rejected = approval(auto_action="return"), approval(state="rejected")
    assert found(root, state__exact="rejected") == [rejected]
    assert found(root, auto_action="return") == [pending]
    assert found(root, kind="effect") == []
    assert 'href="/approvals/?state=rejected"' in root.get(LIST, {"state__exact": "rejected"}).content.decode()


def test_a_request_is_shown_with_its_plan_its_votes_and_where_to_look(root: Client) -> None:
    asked = approval()
    Vote.objects.create(approval=asked, user_name="rita", decision="approve", plan_hash="f" * 64, comment="It is due.")
    page = root.get(f"{LIST}{asked.pk}/change/").content.decode()
    assert "amount_usd" in page
    assert "It is due." in page
    for link in (f"/approvals/{asked.pk}/", f"/console/tasks/{asked.run_id}/"):
        assert f'href="{link}"' in page
    assert f"/console/audit/?type=approval&amp;target={asked.pk}" in page


def test_neither_a_request_nor_its_votes_can_be_changed(root: Client) -> None:
    asked = approval()
    vote = Vote.objects.create(approval=asked, user_name="rita", decision="approve")
    form = {"votes-TOTAL_FORMS": "1", "votes-INITIAL_FORMS": "1", "votes-0-id": str(vote.pk), "state": "approved"}
    assert root.post(f"{LIST}{asked.pk}/change/", {**form, "votes-0-DELETE": "on"}).status_code == 403
    assert root.post(f"{LIST}{asked.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Approval.objects.get().state == "pending"
    assert Vote.objects.exists()


def test_what_a_link_is_checked_by_is_not_shown(root: Client) -> None:
    asked = approval()
    link = DecisionLink.objects.create(
        approval=asked, user=person("rita"), digest="d" * 64, expires_at=asked.deadline or asked.created_at
    )
    page = root.get(f"/admin/approvals/decisionlink/{link.pk}/change/").content.decode()
    assert "d" * 64 not in page


def test_notes_to_agents_are_retired_with_a_trail(root: Client) -> None:
    notes = [
        AgentNote.objects.create(agent="helper", text=text, user_name="olga") for text in ("Be brief.", "Be kind.")
    ]
    data = {"action": "retire", "_selected_action": [str(notes[0].pk)]}
    for words in ("1 note retired.", "0 notes retired."):
        assert words in root.post(NOTES, data, follow=True).content.decode()
    kept = AgentNote.objects.get(pk=notes[0].pk)
    assert (kept.text, kept.retired_by) == ("Be brief.", "root")
    assert AgentNote.objects.get(retired_at=None) == notes[1]
    assert AuditEntry.objects.get(action="agent.note-retire").actor_name == "root"


def test_who_may_not_tell_agents_may_not_retire_notes_either(db: None) -> None:
    staff = person("sven", roles.USER)
    staff.is_staff = True
    staff.save()
    staff.user_permissions.set(Permission.objects.filter(codename="view_agentnote"))
    client, note = Client(), AgentNote.objects.create(agent="helper", text="Be brief.", user_name="olga")
    client.force_login(staff)
    assert "Retire the chosen" not in client.get(NOTES).content.decode()
    client.post(NOTES, {"action": "retire", "_selected_action": [str(note.pk)]})
    assert AgentNote.objects.get().retired_at is None
