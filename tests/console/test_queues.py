from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import roles
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.actions import Pause, Resume
from jobs.models import Hold, Job, LaneSample
from jobs.reconcile import Reconciler
from tests.support.people import person
from tests.support.tasks import fleet, task

URL = "/console/queues/"
PAUSE, RESUME = f"{URL}pause/", f"{URL}resume/"


def text(browser: Client, path: str = URL) -> str:
    """Return a page."""
    return browser.get(path).content.decode()


def row(page: str, lane: str) -> str:
    """Return a lane's row."""
    return page.partition(f'<tr id="lane-{lane}"')[2].partition("</tr>")[0]


def said(browser: Client, path: str, **form: str) -> str:
    """Send a form and return what is said on the page that follows."""
    page = browser.post(path, form, follow=True)
    assert page.redirect_chain
    messages = page.content.decode().partition('<div class="messages"')[2].partition('<div class="head">')[0]
    return " ".join(map(unescape, re.findall(r"<p>(.*?)</p>", messages)))


def at(moment: datetime) -> str:
    """Return a time of day as the page says it."""
    return f"{timezone.localtime(moment):%H:%M}"


# --- The page --------------------------------------------------------------------------------------------------------


def test_every_lane_says_what_it_is_for_and_who_serves_it(operator: Client) -> None:
    worker = fleet({"queue": 4, "batch": 2})
    task("running", worker=worker)
    page = text(operator)
    queue = row(page, "queue")
    assert "Tasks that people and programs submit." in queue
    assert "served" in queue
    assert '?state=running&amp;lane=queue" class="plain">1</a> <span class="unit">of 4</span>' in queue
    assert "1 process" in queue
    assert "nobody serves it" in row(page, "evals")
    assert [lane for lane in ("chat", "scheduled", "tools", "delivery", "suspect") if not row(page, lane)] == []


def test_a_lane_shows_its_depth_and_oldest_age_and_links_to_the_tasks(operator: Client) -> None:
    fleet()
    task("queued", submitted=timedelta(minutes=4))
    queue = row(text(operator), "queue")
    assert '?state=queued&amp;lane=queue">1</a>' in queue
    assert "<span data-age>4 min</span>" in queue


def test_a_lane_shows_what_a_hold_keeps_from_its_queue_and_links_to_the_tasks(operator: Client) -> None:
    task("blocked", blocked_on=["hold:lane:queue"])
    task("blocked", blocked_on=["hold:all", "hold:lane:queue"])
    page = text(operator)
    link = re.search(r'href="([^"]+)">\+ 2 held</a>', row(page, "queue"))
    assert link
    assert len(operator.get(unescape(link[1])).context["page"].items) == 2
    assert page.count(" held</a>") == 1


def test_the_figures_behind_a_line_stand_in_a_table_that_a_link_opens(operator: Client) -> None:
    minute = timezone.now().replace(second=0, microsecond=0)
    for ago in range(3):
        LaneSample.objects.create(
            lane="queue", minute=minute - timedelta(minutes=ago), queued=7 + ago, oldest_s=12.0, running=2, slots=4
        )
    assert "figures-scroll" not in text(operator)
    page = text(operator)
    link = re.search(r'class="spark-link sub" href="(\?figures=queue)#lane-queue"', page)
    assert link
    table = (
        text(operator, URL + link[1]).partition('<tr class="figures" id="figures-queue">')[2].partition("</table>")[0]
    )
    found = re.findall(
        r'<th scope="row">([\d:]+)</th><td class="number">(\d+)</td><td class="number">([^<]+)</td>', table
    )
    assert found == [(at(minute - timedelta(minutes=ago)), str(7 + ago), "12.0 s") for ago in range(3)]


def test_ended_workers_of_the_last_day_are_folded_and_older_ones_are_gone(operator: Client) -> None:
    now = timezone.now()
    fleet(pid=1001)
    fleet(pid=1002, ended="died", ended_at=now - timedelta(hours=2))
    fleet(pid=1003, ended="stopped", ended_at=now - timedelta(hours=30))
    running, _, ended = text(operator).partition('<details class="ended">')
    assert (":1001" in running, ":1002" in running) == (True, False)
    assert "1 ended in the last 24 hours" in ended
    assert (":1002" in ended, ":1003" in ended, "Died" in ended) == (True, False, True)


def test_htmx_gets_the_region_alone(operator: Client) -> None:
    part = operator.get(URL, headers={"HX-Request": "true", "HX-Target": "queues"}).content.decode()
    assert part.lstrip().startswith('<div class="queues" id="queues" data-live')
    assert "<html" not in part


def test_the_page_asks_as_many_queries_for_many_rows_as_for_few(operator: Client) -> None:
    def fill(times: int) -> None:
        for _ in range(times):
            number = Job.objects.count()
            worker = fleet(pid=4000 + number)
            fleet(pid=4000 + number, ended="lost")
            task("running", worker=worker)
            task("blocked", blocked_on=[f"hold:agent:a{number}"])
            Hold.objects.create(key=f"agent:a{number}", reason="paused", placed_by="olga")

    fill(1)
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    fill(10)
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(many) == len(few)


@pytest.mark.django_db(transaction=True)
def test_a_region_that_cannot_be_read_says_so_and_the_rest_of_the_page_stands(operator: Client) -> None:
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("LOCK TABLE jobs_hold IN ACCESS EXCLUSIVE MODE")
        page = operator.get(URL)
    assert page.status_code == 200
    assert "Not everything could be read now: holds." in page.content.decode()
    assert row(page.content.decode(), "queue")


# --- Pausing ---------------------------------------------------------------------------------------------------------


def test_a_paused_lane_says_who_paused_it_since_when_and_why_and_is_resumed_there(operator: Client) -> None:
    fleet()
    words = said(operator, PAUSE, key="lane:queue", note="Provider is down")
    assert words.startswith("Lane queue is paused")
    hold = Hold.objects.get()
    assert (hold.key, hold.reason, hold.note, hold.placed_by) == ("lane:queue", "paused", "Provider is down", "olga")
    page = text(operator)
    listed = page.partition(f'<li id="hold-{hold.pk}">')[2].partition("</li>")[0]
    assert "Lane queue is paused" in listed
    assert "by olga" in listed
    assert "Provider is down" in listed
    assert "paused by olga" in row(page, "queue")
    assert f'action="{RESUME}"' in row(page, "queue")
    assert said(operator, RESUME, key="lane:queue").startswith("Lane queue goes on.")
    assert not Hold.objects.exists()
    assert list(AuditEntry.objects.filter(target_type="hold").order_by("id").values_list("action", "actor_name")) == [
        ("hold.place", "olga"),
        ("hold.lift", "olga"),
    ]


@pytest.mark.django_db(transaction=True)
def test_pausing_a_lane_blocks_its_tasks_and_resuming_queues_them(operator: Client) -> None:
    fleet()
    run = task("queued", hold_keys=["all", "lane:queue"])
    said(operator, PAUSE, key="lane:queue")
    Reconciler().tick()
    assert Job.objects.get(pk=run.pk).state == "blocked"
    assert "1 task</a> waits for it" in text(operator)
    said(operator, RESUME, key="lane:queue")
    Reconciler().tick()
    assert Job.objects.get(pk=run.pk).state == "queued"


def test_the_second_of_two_operators_is_told_who_paused_it_and_when(operator: Client, olga: User) -> None:
    Pause(Actor(user=person("otto", roles.OPERATOR)), note="Upgrade").run("lane:queue")
    words = said(operator, PAUSE, key="lane:queue", note="Me too")
    since = at(Hold.objects.get().placed_at)
    assert words == (f"Lane queue was paused already by otto at {since}. Their note: Upgrade. Nothing was changed.")
    assert Hold.objects.get().note == "Upgrade"
    assert AuditEntry.objects.filter(action="hold.place").count() == 1


def test_the_second_of_two_operators_is_told_who_resumed_it_and_when(operator: Client) -> None:
    actor = Actor(user=person("otto", roles.OPERATOR))
    Pause(actor).run("lane:queue")
    Resume(actor).run("lane:queue")
    since = at(AuditEntry.objects.get(action="hold.lift").at)
    assert said(operator, RESUME, key="lane:queue") == (
        f"Lane queue was resumed already by otto at {since}. Nothing was changed."
    )


def test_resuming_what_was_never_paused_says_so(operator: Client) -> None:
    assert said(operator, RESUME, key="lane:batch") == "Lane batch is not paused. Nothing was changed."


@pytest.mark.django_db(transaction=True)
def test_of_two_operators_who_pause_at_once_one_does_and_the_other_is_told(operator: Client) -> None:
    second = Client()
    second.force_login(person("otto", roles.OPERATOR))
    together, words = Barrier(2), []

    def press(browser: Client) -> None:
        together.wait(10)
        words.append(said(browser, PAUSE, key="all"))
        connection.close()

    presses = [Thread(target=press, args=[browser]) for browser in (operator, second)]
    for each in presses:
        each.start()
    for each in presses:
        each.join(30)
    done, told = sorted(words, key=lambda said: "already" in said)
    assert done.startswith("Everything is paused: no task or reply begins until somebody resumes it.")
    assert told.startswith(f"Everything was paused already by {Hold.objects.get().placed_by} at ")
    assert AuditEntry.objects.filter(action="hold.place").count() == 1


@pytest.mark.parametrize("key", ["all", "lane:batch", "agent:helper", "endpoint:dig.v1"])
def test_everything_a_lane_an_agent_and_an_endpoint_can_be_paused(operator: Client, key: str) -> None:
    said(operator, PAUSE, key=key)
    assert list(Hold.objects.values_list("key", flat=True)) == [key]


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("", 422, "and nothing else"),
        ("everything", 422, "and nothing else"),
        ("user:olga", 422, "and nothing else"),
        ("lane:", 422, "and nothing else"),
        ("lane:suspect", 422, "paused with the lanes its tasks came from"),
        ("lane:nope", 404, "There is no lane “nope”."),
        ("agent:nope", 404, "There is no agent “nope”."),
        ("endpoint:helper", 404, "There is no endpoint “helper”."),
        ("agent:help\0er", 404, "There is no agent"),
    ],
)
@pytest.mark.parametrize("path", [PAUSE, RESUME])
def test_what_cannot_be_paused_is_refused_in_words(
    operator: Client, path: str, key: str, status: int, words: str
) -> None:
    page = operator.post(path, {"key": key})
    assert page.status_code == status
    assert words in page.content.decode()
    assert not Hold.objects.exists()


@pytest.mark.parametrize(
    ("key", "made"),
    [("lane:queue", {}), ("agent:helper", {}), ("endpoint:help.v1", {}), ("all", {"endpoint": "dig.v1"})],
)
def test_the_number_that_wait_for_a_hold_leads_to_those_tasks(operator: Client, key: str, made: dict[str, Any]) -> None:
    Hold.objects.create(key=key, reason="paused", placed_by="olga")
    run = task("blocked", blocked_on=[f"hold:{key}"], **made)
    if key != "all":
        task("blocked", endpoint="dig.v1", lane="batch", blocked_on=["partition"])
    link = re.search(r'<a href="([^"]+)">1 task</a> waits for it', text(operator))
    assert link
    assert [shown.pk for shown in operator.get(unescape(link[1])).context["page"].items] == [run.pk]


def test_lane_suspect_offers_no_pause(operator: Client) -> None:
    page = text(operator)
    assert "Pause lane queue" in row(page, "queue")
    assert "Pause lane" not in row(page, "suspect")


def test_with_everything_paused_each_lane_says_so_and_it_is_resumed_as_one(operator: Client) -> None:
    fleet()
    assert "Pause everything" in text(operator)
    said(operator, PAUSE, key="all")
    page = text(operator)
    assert "Pause everything" not in page
    assert "paused with everything" in row(page, "queue")
    assert 'aria-label="Resume everything"' in page


def test_a_hold_that_nobody_paused_is_lifted_only_when_confirmed(operator: Client) -> None:
    Hold.objects.create(key="agent:helper", reason="breaker", placed_by="astra")
    assert "is held: breaker" in text(operator)
    page = operator.post(RESUME, {"key": "agent:helper", "reason": "breaker"})
    assert page.status_code == 422
    assert "It was not lifted: that has to be confirmed." in page.content.decode()
    assert Hold.objects.exists()
    said(operator, RESUME, key="agent:helper", reason="breaker", confirm="breaker")
    assert not Hold.objects.exists()
    assert AuditEntry.objects.get(action="hold.lift").before == {"reason": "breaker"}


def test_resuming_a_pause_leaves_other_holds_on_the_same_key(operator: Client) -> None:
    for reason in ("breaker", "paused"):
        Hold.objects.create(key="agent:helper", reason=reason, placed_by="astra")
    said(operator, RESUME, key="agent:helper")
    assert Hold.objects.get().reason == "breaker"


def test_a_hold_on_what_is_no_longer_declared_can_still_be_lifted(operator: Client) -> None:
    Hold.objects.create(key="agent:gone", reason="paused", placed_by="olga")
    assert said(operator, RESUME, key="agent:gone").startswith("Agent gone goes on.")


@pytest.mark.parametrize(
    ("path", "goes_to"),
    [
        ("/console/agents/helper/", "/console/agents/helper/"),
        ("/console/agents/?show=all#helper", "/console/agents/?show=all#helper"),
        ("", URL),
        ("/", URL),
        ("/admin/", URL),
        ("/consolation/", URL),
        ("//evil.example/console/", URL),
        ("https://evil.example/console/", URL),
        ("/console/../admin/", URL),
        ("/console/\\evil.example", URL),
        ("/console/nothing/", URL),
        ("javascript:alert(1)", URL),
    ],
)
@pytest.mark.parametrize("action", [PAUSE, RESUME])
def test_it_goes_on_at_a_page_of_the_console_and_nowhere_else(
    operator: Client, action: str, path: str, goes_to: str
) -> None:
    assert operator.post(action, {"key": "lane:queue", "next": path})["Location"] == goes_to


@pytest.mark.parametrize("role", [roles.USER, roles.REVIEWER])
def test_only_operators_see_and_pause(db: None, role: str) -> None:
    browser = Client()
    browser.force_login(person("rita", role))
    assert browser.get(URL).status_code == 403
    for path in (PAUSE, RESUME):
        assert browser.post(path, {"key": "all"}).status_code == 403
    assert not Hold.objects.exists()


def test_pausing_takes_a_post_with_a_token(olga: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(olga)
    assert browser.get(PAUSE).status_code == 405
    assert browser.post(PAUSE, {"key": "all"}).status_code == 403
    assert not Hold.objects.exists()


def test_a_long_note_is_cut_and_what_cannot_be_stored_left_out(operator: Client) -> None:
    said(operator, PAUSE, key="lane:queue", note="a\0b" + "c" * 1_000)
    assert Hold.objects.get().note == "ab" + "c" * 498


def test_the_page_is_reached_by_its_name(db: None) -> None:
    assert reverse("queues") == URL


def test_a_worker_names_its_lanes_in_the_order_of_all_pages(operator: Client) -> None:
    fleet({"batch": 2, "evals": 1, "queue": 4, "gone": 1})
    served = operator.get(URL).content.decode()
    assert re.findall(r'<span class="nowrap">(\w+ \d)', served) == ["queue 4", "batch 2", "evals 1", "gone 1"]
