"""The pages of agents: what there is, how it does, what stops it, what changed."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import roles
from agents import agent_page, registry
from agents.models import AgentVersion, Endpoint
from astra_site.console import agent_words
from astra_site.console.agent_words import differences
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.actions import Pause
from jobs.models import Hold
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.tasks import fleet, task

URL = "/console/agents/"
HELPER = f"{URL}helper/"
HOSTILE = "<script>alert(1)</script>{{ 7|add:7 }}"


def page(client: Client, url: str = URL) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("role", [roles.USER, roles.REVIEWER])
@pytest.mark.parametrize("url", [URL, HELPER, f"{URL}nobody/"])
def test_they_are_for_operators(role: str, url: str) -> None:
    client = Client()
    client.force_login(person("other", role))
    assert client.get(url).status_code == 403
    assert client.post(url).status_code in (403, 405)


def test_nothing_is_changed_by_posting_to_them(operator: Client) -> None:
    assert operator.post(URL).status_code == 405
    assert operator.post(HELPER).status_code == 405


def test_every_agent_is_listed_with_its_version_and_endpoints(operator: Client) -> None:
    context = operator.get(URL).context
    listed = {row.name: (row.version.version, [sign.endpoint.name for sign in signs]) for row, signs in context["used"]}
    assert listed == {"digger": (3, ["dig.v1"]), "helper": (1, ["help.v1", "nested.v1"])}
    assert context["retired"] == []


def test_an_agent_that_no_endpoint_starts_any_more_is_folded_away(operator: Client) -> None:
    load(CONFIG.replace("dig.v1:", "dig.v2:").replace("agent: digger", "agent: helper"))
    context = operator.get(URL).context
    assert [row.name for row, _ in context["retired"]] == ["digger"]
    assert "1 not in use" in page(operator)
    assert "no longer declared" in page(operator, f"{URL}digger/")


def test_the_version_that_endpoints_start_is_shown_after_a_step_back(operator: Client) -> None:
    load(CONFIG.replace("version: 1", "version: 2"))
    load(CONFIG)
    found = {row.name: row.version.version for row, _ in operator.get(URL).context["used"]}
    assert found["helper"] == 1


def test_runs_and_failures_of_a_day_are_counted_and_lead_to_their_tasks(operator: Client) -> None:
    task("dead")
    task("succeeded")
    task("dead", submitted=timedelta(hours=30))
    task(endpoint="dig.v1")
    figures = {row.name: row.figures for row, _ in operator.get(URL).context["used"]}
    assert (str(figures["helper"].runs), figures["helper"].failures) == ("2", 1)
    assert (str(figures["digger"].runs), figures["digger"].failures) == ("1", 0)
    shown = page(operator)
    assert "/console/tasks/?agent=helper&amp;since=24h" in shown
    assert "/console/tasks/?agent=helper&amp;state=dead&amp;since=24h" in shown


def test_runs_are_counted_up_to_a_bound_and_it_is_said(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = agent_page._FIGURES.replace("501", "3").replace("500", "2")
    monkeypatch.setattr(agent_page, "_FIGURES", sql)
    for _ in range(4):
        task("succeeded")
    figures = {row.name: row.figures for row, _ in operator.get(URL).context["used"]}
    assert str(figures["helper"].runs) == "2+"


def test_who_paused_what_and_why_is_shown(operator: Client, olga: User) -> None:
    Pause(Actor(olga), note="too loud").run("agent:helper")
    Pause(Actor(olga)).run("endpoint:dig.v1")
    shown = page(operator)
    assert "Paused by olga" in shown
    assert "too loud" in shown
    assert "dig.v1 paused by olga" in shown
    one = page(operator, HELPER)
    assert "too loud" in one
    assert 'action="/console/queues/resume/"' in one


def test_a_hold_that_no_person_placed_is_no_pause(operator: Client) -> None:
    Hold.objects.create(key="agent:helper", reason="breaker", placed_by="astra")
    shown = page(operator, HELPER)
    assert "Held: breaker" in shown
    assert 'action="/console/queues/resume/"' not in shown


def test_everything_being_paused_is_said_on_the_page(operator: Client, olga: User) -> None:
    Pause(Actor(olga), note="fire drill").run("all")
    assert "Everything is paused" in page(operator, HELPER)


def test_an_agent_is_paused_and_resumed_from_its_page(operator: Client) -> None:
    answer = operator.post("/console/queues/pause/", {"key": "agent:helper", "note": "rest", "next": HELPER})
    assert answer["Location"] == HELPER
    assert Hold.objects.get().note == "rest"
    answer = operator.post("/console/queues/resume/", {"key": "agent:helper", "next": HELPER})
    assert answer["Location"] == HELPER
    assert not Hold.objects.exists()
    told = AuditEntry.objects.filter(target_id="agent:helper").order_by("id").values_list("action", flat=True)
    assert list(told) == ["hold.place", "hold.lift"]


def test_a_version_that_nobody_has_loaded_is_a_warning(operator: Client) -> None:
    assert "No live process has loaded this version" in page(operator)
    fleet(capabilities=["agent:helper@1", "agent:digger@3"])
    fleet(capabilities=["agent:helper@1"])
    fleet(capabilities=["agent:helper@1"], ended="stopped")
    context = operator.get(URL).context
    assert {row.name: row.loaded_by for row, _ in context["used"]} == {"helper": 2, "digger": 1}
    assert "No live process has loaded this version" not in page(operator)


def test_unfinished_tasks_are_told_by_version_and_by_state(operator: Client) -> None:
    task("queued", requires="agent:helper@1")
    task("running", requires="agent:helper@1")
    task("succeeded", requires="agent:helper@1")
    load(CONFIG.replace("version: 1", "version: 2"))
    task("queued", requires="agent:helper@2")
    versions = operator.get(HELPER).context["versions"]
    assert [(row.version.version, str(row.unfinished)) for row in versions.rows] == [(2, "1"), (1, "2")]
    assert {state: str(count) for state, count in versions.unfinished.items()} == {"queued": "2", "running": "1"}


def test_where_too_many_are_unfinished_the_number_says_at_least(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_page, "UNFINISHED_UP_TO", 2)
    monkeypatch.setattr(agent_page, "_UNFINISHED", agent_page._UNFINISHED.replace("5001", "3"))
    for _ in range(5):
        task("queued", requires="agent:helper@1")
    assert "≥ 3" in page(operator, HELPER)


def test_the_newest_two_versions_are_compared_and_any_two_on_demand(operator: Client) -> None:
    load(CONFIG.replace("version: 1\n    instructions: Help.", "version: 2\n    instructions: Help more."))
    load(CONFIG.replace("version: 1\n    instructions: Help.", "version: 5\n    instructions: Help most."))
    context = operator.get(HELPER).context
    assert (context["old"], context["new"]) == (2, 5)
    [found] = context["differences"]
    assert (found.name, found.before, found.after) == ("instructions", "Help more.", "Help most.")
    context = operator.get(HELPER, {"old": "1", "new": "2"}).context
    assert [part.before for part in context["differences"]] == ["Help."]
    assert "One of these versions is not there" in page(operator, f"{HELPER}?old=3&new=5")


@pytest.mark.parametrize("query", ["old=x&new=y", "old=99999999999&new=-1", "below=0", "below=99999999999999999999"])
def test_numbers_that_make_no_sense_are_left_out(operator: Client, query: str) -> None:
    assert operator.get(f"{HELPER}?{query}").status_code == 200


def test_texts_are_compared_line_by_line_and_values_whole() -> None:
    old = {"instructions": "a\nb\nc\nd\ne\nf\ng\nh", "tools": ["x"], "limits": {"max_turns": 8}}
    new = {"instructions": "a\nB\nc\nd\ne\nf\ng\nH", "tools": ["x", "y"], "limits": {"max_turns": 8}, "extra": None}
    found = {part.name: part for part in differences(old, new)}
    assert list(found) == ["instructions", "tools", "extra"]
    assert "".join(sign for sign, _ in found["instructions"].lines) == " -+  …  -+"
    assert (found["tools"].before, found["tools"].after) == ("x", "x, y")


def test_a_text_of_very_many_lines_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_words, "LINES_COMPARED", 3)
    [found] = differences({"instructions": "1\n2\n3\n4"}, {"instructions": "1\n2\n3\n5"})
    assert not found.lines


def test_older_versions_are_on_further_pages(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_page, "VERSIONS_SHOWN", 2)
    for number in range(2, 6):
        load(CONFIG.replace("version: 1", f"version: {number}"))
    seen, query = [], ""
    while True:
        versions = operator.get(f"{HELPER}{query}").context["versions"]
        seen += [row.version.version for row in versions.rows]
        if versions.next_below is None:
            break
        query = f"?below={versions.next_below}"
    assert seen == [5, 4, 3, 2, 1]


def test_an_agent_that_there_is_not_is_not_found_in_words(operator: Client) -> None:
    for name in ("nobody", "a%00b", "%3Cb%3E"):
        answer = operator.get(f"{URL}{name}/")
        assert answer.status_code == 404, name
        assert "There is no agent" in answer.content.decode()
        assert "<b>" not in answer.content.decode()


def test_hostile_texts_are_shown_as_text(operator: Client, olga: User) -> None:
    quoted = json.dumps(HOSTILE)
    load(
        CONFIG.replace("instructions: Help.", f"instructions: {quoted}")
        .replace("version: 1", "version: 2")
        .replace("description: Answers a question.", f"description: {quoted}")
    )
    Pause(Actor(olga), note=HOSTILE).run("agent:helper")
    for url in (URL, HELPER):
        shown = page(operator, url)
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7|add:7 }}" in shown


def test_the_example_of_a_call_is_one_that_works(operator: Client, olga: User) -> None:
    known = registry.current().endpoints
    for name in ("help.v1", "dig.v1", "nested.v1"):
        given = agent_words.example(known[name])
        assert known[name].input_validator.is_valid(given), name
    [call] = [it for it in operator.get(f"{URL}digger/").context["endpoints"] if it.endpoint.name == "dig.v1"]
    words = shlex.split(call.curl.replace("\\\n", " "))
    assert words[:4] == ["curl", "-X", "POST", "http://testserver/api/v1/tasks"]
    sent = operator.post("/api/v1/tasks", json.loads(words[-1]), content_type="application/json")
    assert sent.status_code == 202
    assert shlex.split(call.command)[:3] == ["manage.py", "submit", "dig.v1"]


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        ({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}, {"n": 3}),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, ["a"]),
        ({"oneOf": [{"const": 7}]}, 7),
        ({"type": ["boolean", "null"]}, True),
        ({"type": "string", "format": "uri"}, "https://example.org/"),
        ({"$ref": "#"}, "…"),
        (True, "…"),
    ],
)
def test_an_example_is_made_of_the_schema(schema: object, given: object) -> None:
    assert agent_words._example(schema, 6) == given


def test_a_tool_that_this_process_does_not_know_is_said_to_be_so(operator: Client) -> None:
    version = AgentVersion.objects.get(name="helper")
    AgentVersion.objects.filter(pk=version.pk).update(definition=version.definition | {"tools": ["gone", "web_crawl"]})
    shown = page(operator, HELPER)
    assert "not registered in this process" in shown
    assert "Read a web page" in shown


def test_the_list_asks_as_often_for_thirty_agents_as_for_two(operator: Client) -> None:
    asked = []
    for extra in ("", "more"):
        if extra:
            helper = AgentVersion.objects.get(name="helper")
            for number in range(28):
                made = AgentVersion.objects.create(
                    name=f"agent-{number}",
                    version=1,
                    definition=helper.definition,
                    digest="",
                    program="loop",
                    program_hash="",
                )
                Endpoint.objects.create(name=f"e{number}.v1", agent=made, mode="async-queue", definition={"input": {}})
                task("dead", endpoint=f"e{number}.v1")
        operator.get(URL)
        with CaptureQueriesContext(connection) as queries:
            operator.get(URL)
        asked.append(len(queries))
    assert asked[0] == asked[1]


def test_one_agent_asks_as_often_with_many_versions_as_with_one(operator: Client) -> None:
    asked = []
    for newest in (2, 12):
        for number in range(2, newest + 1):
            load(CONFIG.replace("version: 1", f"version: {number}"))
            task("queued", requires=f"agent:helper@{number}")
        operator.get(HELPER)
        with CaptureQueriesContext(connection) as queries:
            operator.get(HELPER)
        asked.append(len(queries))
    assert asked[0] == asked[1]
