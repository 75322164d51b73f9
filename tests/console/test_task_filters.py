"""The filters of the task list as fields and chips, what they find and how it is said, and what can be selected."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from agents import search, task_counts, task_results
from agents.models import Run
from agents.task_list import ListFilter
from tests.console.conftest import CONFIG
from tests.console.test_task_list import URL, counts, shown
from tests.support.configs import load
from tests.support.talks import with_chat
from tests.support.tasks import PROBLEM, task


def html(client: Client, **query: str) -> str:
    response = client.get(URL, query)
    assert response.status_code == 200
    return response.content.decode()


def fields(page: str) -> dict[str, str]:
    """Return the hidden fields of the bar that changes tasks."""
    bar = page[page.index('id="bulk"') :].split("</form>")[0]
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', bar)}


def verbs(page: str) -> list[str]:
    return re.findall(r'name="verb" value="(\w+)"', page)


# --- What is found, and how -------------------------------------------------------------------------------------------


def test_where_no_task_holds_the_words_the_text_itself_is_looked_for_and_the_page_says_so(operator: Client) -> None:
    task("dead", input={"question": "Compare the superstructure"})
    task(input="the bridge", submitted=timedelta(minutes=1))
    page = html(operator, q="STRUCT")
    assert shown(operator, q="STRUCT") == [{"question": "Compare the superstructure"}]
    assert "No task holds these words. Among the newest 20,000, these hold the text." in page
    assert counts(operator, q="struct", state="dead") == {"All": "1", "Dead letter": "1"}
    assert "these hold the text" not in html(operator, q="superstructure")


@pytest.mark.parametrize("gap", ["\n", "\r\n", "\t", "\n\n"], ids=["line", "windows", "tab", "paragraph"])
def test_the_first_word_of_a_line_is_a_word(operator: Client, gap: str) -> None:
    wanted = f"Where does it end?{gap}River, I mean."
    for text in (wanted, "Rivers elsewhere", "nothing"):
        task(input=text)
    assert shown(operator, q="river mean") == [wanted]
    assert "No task holds these words" not in html(operator, q="river mean")


@pytest.mark.parametrize("text", ["a\tb", 'say "so"', "C:\\temp", "100 %", "naïve", "¿?", "…"])
def test_text_is_found_as_it_was_written_whatever_json_makes_of_it(operator: Client, text: str) -> None:
    task(input=f"x{text}x")
    task(input="something else")
    assert shown(operator, q=f"x{text}") == [f"x{text}x"]


def test_text_is_looked_for_among_the_newest_tasks_of_the_other_filters_alone(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_results, "PIECE_AMONG", (2,))
    for age in range(4):
        task(input=f"hay-{age}-stack", submitted=timedelta(minutes=age))
    task(endpoint="dig.v1", input="haystack", submitted=timedelta(hours=1))
    assert shown(operator, q="tack") == ["hay-0-stack", "hay-1-stack"]
    assert "Among the newest 2," in html(operator, q="tack")
    assert shown(operator, q="tack", endpoint="dig.v1") == ["haystack"]


def test_pages_of_found_text_follow_each_other(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.views.PAGE", 2)
    for age in range(3):
        task(input=f"haystack {age}", submitted=timedelta(minutes=age))
    cursor = operator.get(URL, {"q": "stack"}).context["page"].next_cursor
    assert shown(operator, q="stack", cursor=cursor) == ["haystack 2"]


def test_a_search_that_finds_nothing_says_where_it_looked(operator: Client) -> None:
    task()
    page = html(operator, q="zzz")
    assert "No task holds these words, and none of the newest 20,000 holds the text." in page
    assert "first 8 digits" in page


def test_words_that_many_tasks_hold_are_found_as_those_that_few_hold(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(["red apple", "Red_pear\napple", "scared apple", "apple"]):
        task(input=text, submitted=timedelta(minutes=number))
    found = ["red apple", "Red_pear\napple"]
    rare = shown(operator, q="red")
    monkeypatch.setattr(search, "COMMON_FROM", 1)
    assert shown(operator, q="red") == rare == found
    assert shown(operator, q="RED app") == found
    monkeypatch.setattr(search, "COMMON_FROM", 1_000)
    monkeypatch.setattr(search, "RARE_UP_TO", 0)
    assert shown(operator, q="red") == found


def test_words_of_failures_are_found_whether_many_or_few_hold_them(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task("dead", input="a", error={"title": "A tool failed", "detail": "row 7 is no number", "fingerprint": "f1"})
    task("queued", input="b", error={"title": "A tool failed"}, submitted=timedelta(minutes=1))
    task("succeeded", input="c", error={"title": "A tool failed"}, submitted=timedelta(minutes=2))
    for rare in (10_000, 0):
        monkeypatch.setattr(search, "RARE_UP_TO", rare)
        assert shown(operator, error="tool fail") == ["a", "b"]
        assert shown(operator, error="tool 7 numb") == ["a"]
        assert shown(operator, error="ool") == []


def test_eight_digits_that_begin_no_id_are_a_word(operator: Client) -> None:
    run = task(input="invoice 20261121")
    assert shown(operator, q="20261121") == ["invoice 20261121"]
    assert shown(operator, q=str(run.pk)[:8]) == ["invoice 20261121"]
    assert shown(operator, q=str(run.pk)[1:13]) == []


def test_a_user_finds_nothing_of_others_by_any_filter(user: Client, olga: User) -> None:
    run = task("dead", user=olga, input="secretive", error=PROBLEM | {"fingerprint": "f1"})
    for query in ({"q": "secretive"}, {"q": "ecret"}, {"q": str(run.pk)}, {"error": "f1"}, {"error": "provider"}):
        assert shown(user, **query) == [], query
        assert counts(user, **query) == {"All": "0"}, query
        assert "The model is not available" not in html(user, **query), query


# --- Fields and chips -------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_shown_with_what_the_failure_is_called(operator: Client) -> None:
    task("dead", error=PROBLEM | {"fingerprint": "model:down"})
    page = html(operator, error="model:down")
    assert "Failed alike: The model is not available now" in page
    assert 'value="model:down"' in page
    assert "Failed alike" not in html(operator, error="provider")
    assert "Failed alike" in html(operator, error="=gone")


def test_a_time_of_ones_own_is_read_in_the_sites_time_zone_and_shown_in_its_fields(operator: Client) -> None:
    task(input="old", submitted=timedelta(days=3))
    task(input="new", submitted=timedelta(hours=1))
    local = timezone.localtime() - timedelta(days=1)
    at = f"{local:%Y-%m-%dT%H:%M}"
    with timezone.override("Asia/Tokyo"):
        tokyo = ListFilter.read({"since": "custom", "from": "2026-11-20T10:00"}, None)
    assert datetime.fromisoformat(tokyo.since) == datetime.fromisoformat("2026-11-20T01:00+00:00")
    for since in ("custom", ""):  # without a script the fields are there, whatever is chosen
        assert shown(operator, since=since, **{"from": at}) == ["new"]
        assert shown(operator, since=since, to=at) == ["old"]
    page = html(operator, since="custom", **{"from": at})
    assert f'name="from" type="datetime-local" value="{at}:00"' in page
    assert '<option value="custom" selected>' in page
    assert shown(operator, since="24h", to=at) == ["new"]  # a span wins over what was left in the fields


def test_a_span_is_shown_as_chosen_and_what_has_a_field_is_no_chip(operator: Client) -> None:
    task()
    page = html(operator, since="7d", until="2036-01-01T00:00", lane="queue")
    assert '<option value="7d" selected>Last 7 days</option>' in page
    assert "Submitted in the last" not in page
    assert "Submitted before 1 Jan 2036" in page
    assert "Lane queue" in page
    assert 'name="until" value="2036-01-01T00:00"' in page  # and stays set when another filter changes


def test_the_button_of_folded_filters_says_how_many_are_set(operator: Client) -> None:
    task()
    assert "<span data-filters-set></span>" in html(operator, q="river")
    page = html(operator, endpoint="help.v1", since="24h", error="x", lane="queue")
    assert "<span data-filters-set> (3)</span>" in page


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_a_row_leads_once_to_its_task_and_to_those_that_failed_alike(operator: Client) -> None:
    run = task("dead", error=PROBLEM | {"fingerprint": "a b&c"})
    page = html(operator)
    row = page[page.index('class="row-error"') :].split("</td>")[0]
    assert "<span>The model is not available now: The provider answered" in row
    assert page.count(f'href="/console/tasks/{run.pk}/"') == 1
    (alike,) = re.findall(r'class="alike" href="([^"]+)"', row)
    assert parse_qs(urlsplit(unescape(alike)).query) == {"error": ["a b&c"]}


def test_who_and_where_lead_to_their_tasks(operator: Client, ulla: User) -> None:
    task(user=ulla)
    page = html(operator)
    assert 'href="/console/tasks/?user=ulla"' in page
    assert 'href="/console/tasks/?endpoint=help.v1"' in page


def test_a_reply_whose_conversation_was_deleted_is_listed_as_such(operator: Client, ulla: User) -> None:
    load(with_chat(CONFIG))
    task("succeeded", user=ulla, endpoint="chat.v1", input="")
    task("succeeded", user=ulla, input="")
    page = html(operator)
    assert page.count("(deleted)") == 1
    assert page.count("(empty)") == 1


# --- Selecting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "can"),
    [
        ("", ["redrive", "cancel"]),
        ("dead", ["redrive", "discard"]),
        ("cancelled", ["redrive"]),
        ("queued", ["cancel"]),
        ("running", ["cancel"]),
        ("blocked", ["cancel"]),
        ("waiting", ["cancel"]),
        ("succeeded", []),
        ("discarded", []),
    ],
)
def test_only_what_the_state_allows_is_offered(operator: Client, state: str, can: list[str]) -> None:
    for each in ("dead", "cancelled", "queued", "blocked", "running", "waiting", "succeeded", "discarded"):
        task(each)
    page = html(operator, **({"state": state} if state else {}))
    assert verbs(page) == can
    assert page.count('name="ids"') == (0 if not can else 1 if state else 6)


def test_the_bar_carries_the_filter_with_its_times_fixed(operator: Client) -> None:
    task("dead", error=PROBLEM | {"fingerprint": "f1"})
    before = timezone.now()
    found = fields(html(operator, state="dead", error="f1", since="24h", endpoint="help.v1"))
    assert {name: found[name] for name in ("state", "error", "endpoint")} == {
        "state": "dead",
        "error": "=f1",
        "endpoint": "help.v1",
    }
    assert abs(datetime.fromisoformat(found["since"]) - (before - timedelta(hours=24))) < timedelta(minutes=1)


def test_all_that_match_can_be_meant_where_the_page_does_not_hold_them_all(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.views.PAGE", 2)
    task("dead")
    task("dead")
    assert 'name="all"' not in html(operator, state="dead")
    task("dead")
    task("succeeded")
    assert "All 3 matching" in html(operator, state="dead")
    monkeypatch.setattr(task_counts, "COUNT_UP_TO", 2)
    assert "All 2+ matching" in html(operator, state="dead")


def test_found_text_can_be_selected_one_by_one_but_not_as_a_filter(operator: Client) -> None:
    for _ in range(3):
        task("dead", input="haystack")
    page = html(operator, q="stack", state="dead")
    assert page.count('name="ids"') == 3
    assert 'name="all"' not in page


def test_a_user_selects_nothing(user: Client, ulla: User) -> None:
    task("dead", user=ulla)
    page = html(user)
    assert 'name="ids"' not in page
    assert 'id="bulk"' not in page
    assert "select.js" not in page


def test_the_filter_that_the_bar_carries_finds_the_same_tasks(operator: Client, olga: User) -> None:
    wanted = task("dead", error=PROBLEM | {"fingerprint": "f1"})
    task("dead", submitted=timedelta(days=3), error=PROBLEM | {"fingerprint": "f1"})
    found = fields(html(operator, state="dead", error="f1", since="24h"))
    again = ListFilter.read(found, olga)
    assert [run.pk for run in again.apply(Run.objects.all())] == [wanted.pk]
