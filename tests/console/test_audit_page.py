"""The audit page: who did what, when, from where, before and after; and the same as a file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from asgiref.typing import Scope
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles, tokens
from astra_site import asgi
from astra_site.console import audit_export, audit_log
from astra_site.console.audit_words import VERBS
from audit import reading
from audit.models import AuditEntry
from audit.reading import TrailFilter
from audit.trail import SYSTEM, Actor, record
from jobs.models import Job
from tests.support.people import bearer, person
from tests.support.tasks import task

URL = "/console/audit/"
HOSTILE = '<script>alert(1)</script>"{{ 7|add:7 }}'


def tell(actor: str = "pat", action: str = "job.cancel", kind: str = "job", target: object = "", **more: Any) -> int:
    """Write an entry as it was written ``ago`` and return its id."""
    values = {"at": timezone.now() - more.pop("ago", timedelta()), "actor_name": actor, "action": action}
    made = AuditEntry.objects.bulk_create(
        [AuditEntry(**values, target_type=kind, target_id=str(target or uuid4()), **more)]
    )[0]
    return made.pk


@pytest.fixture(autouse=True)
def _times_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test say when an entry was written."""
    field = AuditEntry._meta.get_field("at")
    real = field.pre_save
    monkeypatch.setattr(field, "pre_save", lambda row, add: row.at or real(row, add))


@pytest.fixture
def trail(operator: Client) -> Client:
    """An operator's browser before an empty trail (but for what was loaded)."""
    return operator


def shown(client: Client, **query: str | int) -> list[int]:
    """Return the ids of the entries on the page, in its order."""
    answer = client.get(URL, query)
    assert answer.status_code == 200
    return [it.entry.pk for it in answer.context["told"]]


@pytest.mark.parametrize("role", [roles.USER, roles.REVIEWER])
@pytest.mark.parametrize("query", ["", "?format=csv", "?entry=1"])
def test_it_is_for_operators(db: None, role: str, query: str) -> None:
    client = Client()
    client.force_login(person("other", role))
    assert client.get(f"{URL}{query}").status_code == 403
    assert client.post(f"{URL}{query}").status_code in (403, 405)
    assert not AuditEntry.objects.filter(action="audit.export").exists()


def test_nobody_can_post_to_it(trail: Client) -> None:
    assert trail.post(URL).status_code == 405


def test_the_newest_comes_first(trail: Client) -> None:
    first, second = tell(), tell()
    assert shown(trail)[:2] == [second, first]


@pytest.fixture
def five() -> dict[str, int]:
    """Five entries that differ in all that can be asked for."""
    return {
        "old": tell("olga", "job.cancel", target="same", ago=timedelta(days=20), request_id="r1"),
        "hold": tell("olga", "hold.place", "hold", "lane:queue", ago=timedelta(days=3)),
        "pat's": tell("pat", "job.redrive", target="same", ago=timedelta(hours=5), request_id="r2"),
        "token": tell("pat", "token.create", "token", "same", ago=timedelta(minutes=5)),
        "new": tell("olga", "job.redrive", target="other", request_id="r2"),
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"actor": "olga"}, ["new", "hold", "old"]),
        ({"actor": "nobody"}, []),
        ({"action": "job.redrive"}, ["new", "pat's"]),
        ({"type": "hold"}, ["hold"]),
        ({"target": "same"}, ["token", "pat's", "old"]),
        ({"target": "same", "type": "job"}, ["pat's", "old"]),
        ({"target": "same", "actor": "olga"}, ["old"]),
        ({"target": "nothing"}, []),
        ({"request": "r2"}, ["new", "pat's"]),
        ({"request": "r2", "actor": "pat"}, ["pat's"]),
        ({"actor": "olga", "action": "job.redrive"}, ["new"]),
        ({"actor": "olga", "action": "token.create"}, []),
        ({"actor": "olga", "type": "job", "since": "30d"}, ["new", "old"]),
        ({"since": "24h", "actor": "pat"}, ["token", "pat's"]),
        ({"since": "1h", "actor": "pat"}, ["token"]),
        ({"action": "job.redrive", "until": "1h"}, ["pat's"]),
        ({"type": "token", "actor": "pat", "action": "token.create", "target": "same"}, ["token"]),
    ],
)
def test_the_address_filters_the_trail(
    trail: Client, five: dict[str, int], query: dict[str, str], found: list[str]
) -> None:
    assert shown(trail, **query) == [five[name] for name in found]


def test_a_span_between_two_moments(trail: Client, five: dict[str, int]) -> None:
    now = timezone.now()
    query = {"since": (now - timedelta(days=4)).isoformat(), "until": (now - timedelta(hours=1)).isoformat()}
    assert shown(trail, **query) == [five["pat's"], five["hold"]]
    local = f"{timezone.localtime(now - timedelta(days=1)):%Y-%m-%dT%H:%M}"
    assert five["hold"] not in shown(trail, since=local)
    page = trail.get(URL, {"since": local}).content.decode()
    assert f'value="{local}"' in page


def test_entries_whose_times_are_not_in_the_order_of_their_ids_are_found(trail: Client) -> None:
    late, early = tell("olga", ago=timedelta(minutes=30)), tell("olga", ago=timedelta(hours=2))
    assert shown(trail, since="1h", actor="olga") == [late]
    until = (timezone.now() - timedelta(hours=1)).isoformat()
    assert shown(trail, until=until, actor="olga") == [early]


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "until=99999-01-01",
        "entry=x",
        "before=-1",
        "before=99999999999999999999999",
        "actor=%00",
        "target=a%00b",
        "format=exe",
        "type=%F0%9F%92%A3&action=%27%3B+DROP+TABLE",
    ],
)
def test_what_makes_no_sense_does_no_harm(trail: Client, query: str) -> None:
    assert trail.get(f"{URL}?{query}").status_code == 200


def test_each_entry_has_an_address_of_its_own(trail: Client) -> None:
    first, _ = tell(), tell()
    assert shown(trail, entry=first) == [first]
    assert f'href="{URL}?entry={first}"' in trail.get(URL).content.decode()


@pytest.mark.parametrize(
    "query", [{}, {"actor": "olga"}, {"target": "same"}, {"actor": "olga", "action": "job.cancel"}]
)
def test_every_entry_is_on_one_page(trail: Client, query: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "PAGE", 3)
    made = [tell("olga", target="same") for _ in range(8)]
    made += [tell("olga", "token.create", "token", "same")] if query == {"target": "same"} else []
    seen: list[int] = []
    asked: dict[str, str | int] = dict(query)
    while True:
        answer = trail.get(URL, asked)
        seen += [it.entry.pk for it in answer.context["told"]]
        if answer.context["page"].next_before is None:
            break
        asked["before"] = answer.context["page"].next_before
    assert [pk for pk in seen if pk in made] == made[::-1]
    assert len(seen) == len(set(seen))


def test_a_page_looks_no_further_than_its_bound_and_says_so(trail: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_AT", 5)
    wanted = tell("olga", "job.discard")
    for _ in range(6):
        tell("olga", "job.cancel")
    for _ in range(6):
        tell("pat", "job.discard")
    query: dict[str, str | int] = {"actor": "olga", "action": "job.discard"}
    answer = trail.get(URL, query)
    assert "Nothing found so far" in answer.content.decode()
    assert "Look further back" in answer.content.decode()
    assert shown(trail, **query, before=answer.context["page"].next_before) == [wanted]


def test_the_rarest_filter_leads(trail: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_AT", 5)
    wanted = tell("rita", "job.cancel", "hold", "lane:queue")
    for _ in range(9):
        tell("olga", "job.cancel", "hold", "lane:queue")
    for others in ({"action": "job.cancel"}, {"target": "lane:queue"}, {"type": "hold"}):
        assert shown(trail, actor="rita", **others) == [wanted], others


def test_the_choices_are_those_of_the_trail(trail: Client, five: dict[str, int]) -> None:
    context = trail.get(URL).context
    assert {"hold.place", "job.cancel", "job.redrive", "token.create"} <= set(context["actions"]())
    assert context["actions"]() == sorted(set(context["actions"]()))
    assert {"hold", "job", "token"} <= set(context["types"]())


def words(client: Client, **query: str | int) -> str:
    """Return the first entry of the page as a reader sees it."""
    it = client.get(URL, query).context["told"][0]
    return " ".join(part for part in (it.who, it.by, it.verb, it.target) if part)


def test_deeds_are_told_in_words_and_lead_to_what_they_were_done_to(trail: Client, olga: User) -> None:
    run = task("dead")
    trail.post(f"/console/tasks/{run.pk}/redrive/")
    assert words(trail).startswith("olga redrove task ")
    page = trail.get(URL).content.decode()
    assert f'href="/console/tasks/{run.pk}/"' in page
    assert "<del>" in page.replace('<span class="visually-hidden">before: </span>', "")
    trail.post("/console/queues/pause/", {"key": "lane:queue"})
    assert words(trail) == "olga paused lane queue"
    trail.post("/console/queues/resume/", {"key": "lane:queue"})
    assert words(trail) == "olga resumed lane queue"
    trail.post("/console/queues/pause/", {"key": "agent:helper"})
    assert 'href="/console/agents/helper/"' in trail.get(URL).content.decode()
    record(SYSTEM, "hold.place", "hold", "agent:helper", after={"reason": "breaker"})
    assert words(trail) == "Astra by itself placed a hold on agent helper"
    record(Actor(olga), "login.succeed", "user", olga.pk)
    assert words(trail) == "olga signed in"
    record(Actor(olga), "something.new", "thing", "9")
    assert words(trail) == "olga something.new thing 9"


@pytest.mark.parametrize(
    ("action", "after", "told"),
    [
        ("request", {}, "asked people to decide on"),
        ("view", {}, "looked at"),
        ("claim", {}, "claimed"),
        ("release", {}, "released"),
        ("delegate", {"to": "rolf"}, "delegated"),
        ("escalate", {}, "escalated"),
        ("supersede", {}, "dropped"),
        ("altered", {}, "refused what somebody altered in"),
        ("vote", {"decision": "approve"}, "voted for"),
        ("vote", {"decision": "reject"}, "voted against"),
        ("vote", {"decision": "unheard of"}, "voted on"),
        ("decide", {"decision": "approve"}, "approved"),
        ("decide", {"decision": "approve_with_changes"}, "approved, with changes,"),
        ("decide", {"decision": "reject", "state": "expired"}, "closed, because nobody decided in time,"),
        ("decide", {"decision": "give_up"}, "gave up"),
        ("decide", ["lost"], "decided on"),
    ],
)
def test_what_was_done_to_an_approval_is_told_and_leads_there(
    trail: Client, olga: User, action: str, after: Any, told: str
) -> None:
    key = uuid4()
    record(Actor(olga), f"approval.{action}", "approval", key, after=after)
    assert words(trail).startswith(f"olga {told} approval {str(key)[:4]}")
    assert f'href="/approvals/{key}/"' in trail.get(URL).content.decode()


def test_what_agents_are_told_leads_to_them_and_a_grade_to_its_task(trail: Client, olga: User) -> None:
    record(Actor(olga), "agent.note", "agent", "helper", note="Be brief.")
    assert words(trail) == "olga gave a note to agent helper"
    run = task("succeeded")
    record(Actor(olga), "run.grade", "run", run.pk)
    assert words(trail).startswith("olga graded task ")
    page = trail.get(URL).content.decode()
    assert 'href="/console/agents/helper/"' in page
    assert f'href="/console/tasks/{run.pk}/"' in page


def test_every_action_that_the_source_writes_has_its_words() -> None:
    apps = ("accounts", "agents", "approvals", "astra_site", "audit", "jobs")
    written = {
        action
        for app in apps
        for file in (Path(settings.BASE_DIR) / app).rglob("*.py")
        for action in re.findall(r'(?:record|statement)\(\s*[\w.()]+,\s*"([a-z]+\.[a-z_-]+)"', file.read_text())
    }
    assert {"approval.claim", "agent.note", "token.create", "approval.request"} <= written
    assert written <= set(VERBS)


def test_what_was_done_with_a_token_names_it(olga: User, trail: Client) -> None:
    run = task("queued", user=olga)
    Client().post(f"/api/v1/tasks/{run.pk}/cancel", headers=bearer(olga))
    assert words(trail, action="job.cancel").startswith("olga with token “token” cancelled task")
    entry = AuditEntry.objects.get(action="job.cancel")
    assert entry.token_id == olga.api_tokens.get().pk


def test_a_tasks_page_leads_to_its_own_entries(trail: Client) -> None:
    run, other = task("queued"), task("queued")
    for each in (run, other):
        trail.post(f"/console/tasks/{each.pk}/cancel/")
    found = trail.get(URL, {"target": str(run.pk)}).context["told"]
    assert [it.entry.target_id for it in found] == [str(run.pk)]
    assert Job.objects.filter(state="cancelled").count() == 2


def test_hostile_texts_are_shown_as_text(trail: Client) -> None:
    tell(
        HOSTILE,
        HOSTILE[:60],
        HOSTILE[:40],
        HOSTILE[:64],
        note=HOSTILE,
        before={HOSTILE: HOSTILE},
        after={"a": [HOSTILE]},
    )
    page = trail.get(URL).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("told", ["=1+1", 7, True, [["lost"]], [{"lost": 1}]])
def test_an_entry_of_any_shape_does_not_hide_the_trail(trail: Client, told: Any) -> None:
    tell(action="hold.place", before=told, after=told)
    tell(before=told)
    page = trail.get(URL)
    assert page.status_code == 200
    assert [change.name for change in page.context["told"][0].changes] == ["value"]


def test_a_long_change_starts_folded(trail: Client) -> None:
    record(SYSTEM, "config.load", "config", 1, after={"changes": [f"changed {number} of many" for number in range(90)]})
    assert 'class="audit-more"' in trail.get(URL, {"action": "config.load"}).content.decode()


def test_the_page_asks_as_often_for_forty_entries_as_for_two(trail: Client, olga: User) -> None:
    asked = []
    for count in (1, 19):
        for number in range(count):
            record(Actor(olga, token_id=number + 1), "user.change", "user", olga.pk)
            record(Actor(olga), "token.revoke", "token", number + 1)
        with CaptureQueriesContext(connection) as queries:
            trail.get(URL, {"actor": "olga", "since": "24h"})
        asked.append(len(queries))
    assert asked[0] == asked[1]


def test_htmx_gets_the_list_alone(trail: Client) -> None:
    tell()
    part = trail.get(URL, headers={"HX-Request": "true", "HX-Target": "trail"}).content.decode()
    assert '<div id="trail"' in part
    assert "<form" not in part


async def exported(olga: User, **query: str) -> str:
    client = AsyncClient()
    await client.aforce_login(olga)
    answer = await client.get(URL, query)
    assert answer.status_code == 200
    assert "attachment" in answer["Content-Disposition"]
    assert "no-store" in answer["Cache-Control"]
    return b"".join([chunk async for chunk in answer]).decode()  # type: ignore[attr-defined]


@pytest.mark.django_db(transaction=True)
async def test_what_is_filtered_is_given_out_as_json_lines(olga: User) -> None:
    made = [await sync_to_async(tell)("pat", note="ä\n") for _ in range(3)]
    await sync_to_async(tell)("olga")
    lines = [json.loads(line) for line in (await exported(olga, format="jsonl", actor="pat")).splitlines()]
    assert [line["id"] for line in lines] == made[::-1]
    assert lines[0]["note"] == "ä\n"
    assert datetime.fromisoformat(lines[0]["at"]).tzinfo is not None
    entry = await AuditEntry.objects.aget(action="audit.export")
    assert entry.actor_name == "olga"
    assert entry.after == {"format": "jsonl", "actor": "pat"}


@pytest.mark.django_db(transaction=True)
async def test_a_spreadsheet_gets_no_formula(olga: User) -> None:
    bad = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1"]
    for text in bad:
        await sync_to_async(tell)(text, note=text)
    rows = list(csv.DictReader(io.StringIO(await exported(olga, format="csv", action="job.cancel"))))
    assert [row["actor_name"] for row in rows] == [f"'{text}" for text in reversed(bad)]
    assert [row["note"] for row in rows] == [f"'{text}" for text in reversed(bad)]


@pytest.mark.django_db(transaction=True)
async def test_a_file_ends_at_its_bound_and_says_where_to_go_on(olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_export, "MOST", 3)
    made = [await sync_to_async(tell)() for _ in range(5)]
    *lines, last = (json.loads(line) for line in (await exported(olga, format="jsonl", actor="pat")).splitlines())
    assert [line["id"] for line in lines] == made[:1:-1]
    assert f"before={made[2]}" in last["note"]
    rest = await exported(olga, format="jsonl", actor="pat", before=str(made[2]))
    assert [json.loads(line)["id"] for line in rest.splitlines()] == made[1::-1]


@pytest.mark.django_db(transaction=True)
async def test_who_reads_a_file_slowly_holds_no_connection(olga: User) -> None:
    await sync_to_async(tell)("pat")
    client = AsyncClient()
    await client.aforce_login(olga)
    scope = {
        "type": "http",
        "method": "GET",
        "path": URL,
        "query_string": b"format=csv",
        "headers": [(b"cookie", client.cookies.output(header="", attrs=[]).strip().encode()), (b"host", b"testserver")],
    }
    asked = False
    held: list[bool] = []

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Future()

    async def send(event: Any) -> None:
        if event["type"] == "http.response.body":  # in the request's own thread, where the view was
            held.append(await sync_to_async(lambda: connection.connection is not None)())

    await asgi.application(cast("Scope", scope), receive, send)
    assert len(held) > 0
    assert not any(held)


def test_walking_goes_through_windows_in_which_nothing_fits(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_AT", 4)
    wanted = [tell("olga", "job.discard") for _ in range(2)]
    for _ in range(9):
        tell("olga", "job.cancel")
    for _ in range(9):
        tell("pat", "job.discard")
    asked = TrailFilter(actor="olga", action="job.discard")
    found = [entry.pk for page in reading.walk(asked, limit=100) for entry in page.items]
    assert found == wanted[::-1]
    assert list(reading.walk(asked, limit=100, looks=1))[-1].next_before is not None


def test_a_token_that_is_gone_is_named_by_its_number(trail: Client, olga: User) -> None:
    token, _ = tokens.create(olga, actor=SYSTEM)
    record(Actor(olga, token_id=token.pk), "job.cancel", "job", "x")
    assert "with token “" in words(trail, action="job.cancel")
    number = token.pk
    token.delete()
    assert words(trail, action="job.cancel") == f"olga with token {number} cancelled task x"
