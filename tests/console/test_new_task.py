from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agents.models import Run
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.actions import Redrive
from jobs.models import Hold
from tests.support.tasks import task

URL = "/console/tasks/new/"


def submit(client: Client, **data: str) -> Any:
    return client.post(URL, data)


def test_the_endpoints_that_take_tasks_can_be_chosen(user: Client) -> None:
    page = user.get(URL)
    assert [endpoint.name for endpoint in page.context["endpoints"]] == ["dig.v1", "help.v1", "nested.v1"]


def test_the_fields_are_those_of_the_endpoints_schema(user: Client) -> None:
    fields = user.get(URL, {"endpoint": "dig.v1"}).context["form"].fields
    assert [(field.name, field.label, field.control, field.required) for field in fields] == [
        ("question", "Question", "text", True),
        ("start_url", "Start URL", "line", False),
        ("max_pages", "Max pages", "integer", False),
    ]


def test_a_filled_form_becomes_a_task_and_leads_to_its_page(user: Client, ulla: User) -> None:
    filled = {"in-question": "Why?", "in-start_url": "https://example.org/", "in-max_pages": "7"}
    answer = submit(user, endpoint="dig.v1", **filled)
    run = Run.objects.get()
    assert answer["Location"] == f"/console/tasks/{run.pk}/"
    assert run.input == {"question": "Why?", "start_url": "https://example.org/", "max_pages": 7}
    assert run.user == ulla
    assert run.job.state == "queued"


def test_fields_left_empty_are_left_out(user: Client) -> None:
    submit(user, endpoint="dig.v1", **{"in-question": "Why?", "in-start_url": "", "in-max_pages": " "})
    assert Run.objects.get().input == {"question": "Why?"}


def test_htmx_is_sent_to_the_new_task_instead_of_getting_its_page_into_the_form(user: Client) -> None:
    answer = user.post(URL, {"endpoint": "dig.v1", "in-question": "Why?"}, headers={"HX-Request": "true"})
    assert answer["HX-Redirect"] == f"/console/tasks/{Run.objects.get().pk}/"


@pytest.mark.parametrize(
    ("filled", "field", "words"),
    [
        ({"in-question": ""}, "question", "Fill this in."),
        ({"in-question": "Why?", "in-max_pages": "many"}, "max_pages", "Write a whole number."),
        (
            {"in-question": "Why?", "in-start_url": "example"},
            "start_url",
            "it must be an address like https://example.org/",
        ),
        ({"in-question": "Why?", "in-max_pages": "99"}, "max_pages", "99 is greater than the maximum of 20"),
    ],
)
def test_a_mistake_is_told_at_its_field_and_what_was_typed_stays(
    user: Client, filled: dict[str, str], field: str, words: str
) -> None:
    answer = submit(user, endpoint="dig.v1", **filled)
    assert answer.status_code == 422
    assert not Run.objects.exists()
    found = {item.name: item for item in answer.context["form"].fields}
    assert found[field].errors == [words]
    assert all(found[name.removeprefix("in-")].value == value for name, value in filled.items())
    assert f'id="in-{field}-error"' in answer.content.decode()


def test_a_mistake_comes_back_to_htmx_as_the_same_part(user: Client) -> None:
    answer = user.post(URL, {"endpoint": "dig.v1"}, headers={"HX-Request": "true", "HX-Target": "new-task"})
    assert answer.status_code == 422
    assert answer.content.lstrip().startswith(b'<div class="new-task" id="new-task">')


def test_an_input_that_is_no_flat_object_is_written_as_json(user: Client) -> None:
    form = user.get(URL, {"endpoint": "nested.v1"}).context["form"]
    assert form.only_json
    submit(user, endpoint="nested.v1", **{"in-json": '{"rows": [1, {"a": null}]}'})
    assert Run.objects.get().input == {"rows": [1, {"a": None}]}


def test_any_input_may_be_written_as_json(user: Client) -> None:
    submit(user, endpoint="dig.v1", **{"as": "json", "in-json": '"just a text"'})
    assert Run.objects.get().input == "just a text"


@pytest.mark.parametrize(
    ("written", "words"),
    [("", "Write the input"), ("{", "This is not JSON"), ('{"rows": 3}', "rows: "), ("[NaN]", "This is not JSON")],
)
def test_json_that_cannot_be_used_is_refused_at_the_field(user: Client, written: str, words: str) -> None:
    answer = submit(user, endpoint="nested.v1", **{"in-json": written})
    assert answer.status_code == 422
    assert answer.context["form"].fields[0].errors[0].startswith(words)


def test_a_full_queue_is_told_in_the_form_with_when_to_try_again(user: Client) -> None:
    for _ in range(3):
        task("queued")
    answer = submit(user, endpoint="dig.v1", **{"in-question": "Why?"})
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
    assert "Not submitted" in answer.content.decode()
    assert answer.context["form"].fields[0].value == "Why?"


def test_an_ended_task_can_be_run_again_with_another_input(user: Client, ulla: User) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input={"question": "Why?", "max_pages": 3})
    form = user.get(URL, {"from": str(old.pk)}).context["form"]
    assert {field.name: field.value for field in form.fields} == {"question": "Why?", "start_url": "", "max_pages": "3"}
    submit(user, **{"from": str(old.pk), "endpoint": "help.v1", "in-question": "How?", "in-max_pages": "3"})
    new = Run.objects.exclude(pk=old.pk).get()
    assert (new.endpoint.name, new.input, new.redriven_from) == ("dig.v1", {"question": "How?", "max_pages": 3}, old)


def test_the_short_form_of_an_input_fills_the_field_it_stands_for(user: Client, ulla: User) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input="Why?")
    assert user.get(URL, {"from": str(old.pk)}).context["form"].fields[0].value == "Why?"


def test_a_task_that_goes_on_cannot_be_run_again_with_another_input(user: Client, ulla: User) -> None:
    old = task("queued", user=ulla, endpoint="dig.v1", input="Why?")
    answer = submit(user, **{"from": str(old.pk), "in-question": "How?"})
    assert answer.status_code == 409
    assert Run.objects.count() == 1


@pytest.mark.parametrize("origin", ["somebody else's", "not an id"])
def test_nobody_starts_from_a_task_they_may_not_see(user: Client, olga: User, origin: str) -> None:
    run = task("dead", user=olga)
    assert user.get(URL, {"from": str(run.pk) if origin == "somebody else's" else origin}).status_code == 404


def test_an_unknown_endpoint_falls_back_to_the_first(user: Client) -> None:
    assert user.get(URL, {"endpoint": "no.v1"}).context["form"].endpoint.name == "dig.v1"


def hidden(client: Client, **query: str) -> dict[str, str]:
    """Return what the form carries with it."""
    shown = client.get(URL, query).content.decode()
    return dict(re.findall(r'<input type="hidden" name="(form|generation|from)" value="([^"]*)">', shown))


def test_a_form_that_is_sent_twice_makes_one_task(user: Client) -> None:
    form = hidden(user, endpoint="dig.v1")
    first, second = (submit(user, endpoint="dig.v1", **form, **{"in-question": "Why?"}) for _ in range(2))
    assert first["Location"] == second["Location"]
    assert Run.objects.count() == 1


def test_a_form_that_is_changed_and_sent_again_makes_another_task(user: Client) -> None:
    form = hidden(user, endpoint="dig.v1")
    for question in ("Why?", "How?"):
        submit(user, endpoint="dig.v1", **form, **{"in-question": question})
    assert Run.objects.count() == 2


def test_the_same_task_can_be_submitted_again_from_a_new_form(user: Client) -> None:
    for _ in range(2):
        submit(user, endpoint="dig.v1", **hidden(user, endpoint="dig.v1"), **{"in-question": "Why?"})
    assert Run.objects.count() == 2


def test_an_edit_that_is_sent_twice_redrives_once(user: Client, ulla: User) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input={"question": "Why?"})
    form = hidden(user, **{"from": str(old.pk)})
    assert form["generation"] == "1"
    for _ in range(2):
        submit(user, **form, **{"in-question": "How?"})
    assert old.redrives.count() == 1
    assert AuditEntry.objects.filter(action="task.redrive_edited").count() == 1


def test_an_edit_of_a_task_that_was_redriven_meanwhile_is_refused_and_names_who_was_first(
    user: Client, ulla: User
) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input={"question": "Why?"})
    form = hidden(user, **{"from": str(old.pk)})
    Redrive(Actor(known_as="otto")).run(old.pk)
    answer = submit(user, **form, **{"in-question": "How?"})
    assert answer.status_code == 409
    told = "Not submitted: otto redrove it since you opened this page. It is queued now."
    assert answer.context["form"].problem == told
    assert answer.context["form"].fields[0].value == "How?"
    assert hidden_in(answer)["generation"] == "1"
    assert not old.redrives.exists()


def hidden_in(answer: Any) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.content.decode()))


def test_the_form_of_an_edit_says_what_failed_and_where(user: Client, ulla: User) -> None:
    error = {"title": "It does not fit", "errors": [{"loc": ["input", "question"], "msg": "too short"}]}
    old = task("dead", user=ulla, endpoint="dig.v1", input={"question": "?"}, error=error)
    shown = user.get(URL, {"from": str(old.pk)}).content.decode()
    assert "It failed with: It does not fit" in shown
    assert "<code>input.question</code> too short" in shown


def test_the_form_of_an_edit_says_that_somebody_edited_it_before(user: Client, ulla: User) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input={"question": "Why?"})
    copy = task("queued", user=ulla, endpoint="dig.v1", input={"question": "How?"}, run={"redriven_from": old})
    shown = user.get(URL, {"from": str(old.pk)}).content.decode()
    assert "It was run again with another input before" in shown
    assert f'<a href="/console/tasks/{copy.pk}/">How?</a>' in shown


def test_who_would_edit_a_task_that_goes_on_is_led_back_to_it(user: Client, ulla: User) -> None:
    old = task("running", user=ulla, endpoint="dig.v1", input={"question": "Why?"})
    answer = user.get(URL, {"from": str(old.pk)}, follow=True)
    assert answer.redirect_chain == [(f"/console/tasks/{old.pk}/", 302)]
    assert "This one is running now." in answer.content.decode()


@pytest.mark.parametrize(
    "kept",
    [
        {"question": "Why?", "unknown": 1},
        {"question": ["Why?"]},
        {"question": "Why?", "max_pages": "three"},
        {"question": "Why?", "start_url": "https://e.org/\n"},
        ["Why?"],
    ],
)
def test_an_input_that_the_fields_cannot_show_whole_is_edited_as_json(user: Client, ulla: User, kept: Any) -> None:
    old = task("dead", user=ulla, endpoint="dig.v1", input=kept)
    form = user.get(URL, {"from": str(old.pk)}).context["form"]
    assert form.as_json
    assert json.loads(form.fields[0].value) == kept
    assert not user.get(URL, {"from": str(old.pk), "as": "fields"}).context["form"].as_json


def test_the_focus_goes_to_the_first_field_that_is_wrong_or_to_what_is(user: Client) -> None:
    shown = submit(user, endpoint="dig.v1", **{"in-question": "Why?", "in-max_pages": "99"}).content.decode()
    assert shown.count("autofocus") == 1
    assert re.search(r'id="in-max_pages"[^>]* autofocus', shown)
    for _ in range(3):
        task("queued")
    full = submit(user, endpoint="dig.v1", **{"in-question": "Why?"}).content.decode()
    assert re.search(r'role="alert" tabindex="-1" autofocus', full)


# --- What is paused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("all", "Everything is paused by olga since"),
        ("lane:queue", "Lane queue is paused by olga since"),
        ("agent:digger", "Agent digger is paused by olga since"),
        ("endpoint:dig.v1", "Endpoint dig.v1 is paused by olga since"),
    ],
)
def test_the_form_says_that_the_task_will_wait(operator: Client, key: str, words: str) -> None:
    Hold.objects.create(key=key, reason="paused", note="Upgrade", placed_by="olga")
    shown = operator.get(URL, {"endpoint": "dig.v1"}).content.decode()
    assert "The task will wait" in shown
    assert words in shown
    assert "“Upgrade”" in shown
    refused = operator.post(URL, {"endpoint": "dig.v1"}, headers={"HX-Request": "true"})
    assert words in refused.content.decode()


def test_what_is_held_elsewhere_stops_no_new_task(operator: Client) -> None:
    for key in ("lane:batch", "agent:helper", "endpoint:help.v1"):
        Hold.objects.create(key=key, reason="paused", placed_by="olga")
    assert b"The task will wait" not in operator.get(URL, {"endpoint": "dig.v1"}).content


def test_a_user_is_told_of_a_hold_but_not_whose_it_is_or_why(user: Client) -> None:
    Hold.objects.create(key="agent:digger", reason="breaker", note="Secret plans", placed_by="olga")
    shown = user.get(URL, {"endpoint": "dig.v1"}).content.decode()
    assert "Agent digger is held (breaker) since" in shown
    assert "olga" not in shown
    assert "Secret plans" not in shown
    assert "/console/queues/" not in shown


def test_the_form_asks_once_for_all_that_may_stop_it(operator: Client) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            operator.get(URL, {"endpoint": "dig.v1"})
        return sum("jobs_hold" in query["sql"] for query in queries)

    assert asked() == 1
    for key in ("all", "lane:queue", "agent:digger", "endpoint:dig.v1"):
        Hold.objects.create(key=key, reason="paused", placed_by="olga")
    assert asked() == 1
