"""The replies of a chat in the console: runs like any other, but nobody submitted them and nobody edits them here."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents.models import Conversation, Endpoint, Run
from jobs.models import JobEvent
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.tasks import task

CHAT = CONFIG.replace("endpoints:\n", "endpoints:\n  chat.v1: {agent: helper, mode: streaming-sync, escape: help.v1}\n")


@pytest.fixture(autouse=True)
def _chat(db: None) -> None:
    load(CHAT)


def reply(user: User, state: str = "dead") -> Run:
    return task(state, user=user, endpoint="chat.v1", lane="chat", home_lane="chat")


def test_a_reply_is_listed_with_the_tasks_and_found_by_its_endpoint_and_mode(operator: Client, ulla: User) -> None:
    submitted, said = task(user=ulla), reply(ulla)
    listed = operator.get("/console/tasks/").context["page"].items
    assert {run.pk for run in listed} == {submitted.pk, said.pk}
    for query in ({"endpoint": "chat.v1"}, {"mode": "streaming-sync"}):
        assert [run.pk for run in operator.get("/console/tasks/", query).context["page"].items] == [said.pk]


def test_nobody_submits_a_task_to_a_chat(user: Client) -> None:
    page = user.get("/console/tasks/new/", {"endpoint": "chat.v1"})
    assert "chat.v1" not in {endpoint.name for endpoint in page.context["endpoints"]}
    assert page.context["form"].endpoint.name != "chat.v1"


def test_a_failed_reply_can_be_redriven_but_not_with_another_input(user: Client, ulla: User) -> None:
    said = reply(ulla)
    page = user.get(f"/console/tasks/{said.pk}/").context["page"]
    assert (page.can_redrive, page.can_edit) == (True, False)
    assert user.post(f"/console/tasks/{said.pk}/redrive/", {"from": "checkpoint"}).status_code == 302
    said.job.refresh_from_db()
    assert said.job.state == "queued"


def test_who_tries_all_the_same_is_told_in_words(user: Client, ulla: User) -> None:
    said = reply(ulla)
    for page in (
        user.get("/console/tasks/new/", {"from": said.pk}, follow=True),
        user.post("/console/tasks/new/", {"from": said.pk, "in-message": "Else"}, follow=True),
    ):
        assert page.redirect_chain == [(f"/console/tasks/{said.pk}/", 302)]
        assert "chat.v1 takes no tasks" in page.content.decode()
    assert Run.objects.count() == 1


def said(ulla: User, **job: object) -> Run:
    conversation = Conversation.objects.create(user=ulla, endpoint=Endpoint.objects.get(name="chat.v1"))
    return task(
        "succeeded",
        user=ulla,
        endpoint="chat.v1",
        lane="chat",
        home_lane="chat",
        payload={"conversation": str(conversation.pk), "message": str(conversation.pk)},
        **job,  # type: ignore[arg-type]
    )


def test_a_reply_was_asked_in_the_chat_and_only_its_owner_is_led_there(
    user: Client, operator: Client, ulla: User
) -> None:
    run = said(ulla)
    link = f'href="/chat/{run.job.payload["conversation"]}/"'
    for reader, led in ((user, True), (operator, False)):
        shown = reader.get(f"/console/tasks/{run.pk}/").content.decode()
        assert "Asked in the chat" in shown
        assert "Submitted to the queue" not in shown
        assert (link in shown) == led


def test_a_reply_spent_no_time_in_a_queue(user: Client, ulla: User) -> None:
    run = said(ulla)
    made, taken = JobEvent.objects.filter(job=run.job).order_by("pk")[:2]
    JobEvent.objects.filter(pk=taken.pk).update(at=made.at)
    assert [state for state, _ in user.get(f"/console/tasks/{run.pk}/").context["page"].spent] == ["running"]


def test_a_reply_whose_conversation_was_deleted_is_not_called_empty(user: Client, ulla: User) -> None:
    run = said(ulla, input="")
    Conversation.objects.all().delete()
    shown = user.get(f"/console/tasks/{run.pk}/").content.decode()
    assert "(deleted)" in shown
    assert "(empty)" not in shown
    assert "It was deleted with its conversation." in shown
    assert "/chat/" not in re.sub(r"<nav.*?</nav>", "", shown, flags=re.DOTALL)
