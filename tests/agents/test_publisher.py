"""The shipped agent `publisher`: ten posts drafted, each decided on by itself, the approved ones published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import registry
from agents.models import Effect, Step
from agents.programs.publisher import slug
from approvals.deciding import Decide
from approvals.errors import Undecidable
from approvals.models import Approval
from jobs.handlers import Failed, Parked, Succeeded
from tests.support.approvals import carry_on, fresh, reviewer
from tests.support.people import person
from tests.support.shop import SHIPPED, output, start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _shipped(db: None) -> Iterator[None]:
    registry.load(SHIPPED)
    person("rita", "reviewer")
    yield
    registry.forget()


@pytest.fixture
def published(tmp_path: Path, settings: Any) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path / "published"


def drafted(given: Any) -> Approval:
    """Let posts be drafted, and return the request about them."""
    run_id = start("publish.v1", given)
    assert isinstance(carry_on(), Parked)
    return Approval.objects.get(run_id=run_id, state="pending")


def bodies(request: Approval) -> list[str]:
    return [call["arguments"]["body_markdown"] for call in request.plan["calls"]]


def each(request: Approval, *rejected: str) -> dict[str, Any]:
    return {call["id"]: "reject" if call["id"] in rejected else "approve" for call in request.plan["calls"]}


def test_ten_posts_are_drafted_and_two_of_them_left_out(published: Path) -> None:
    request = drafted("growing tomatoes on a balcony")
    assert request.title == "Publish 10 posts about growing tomatoes on a balcony"
    assert request.flagged == [str(number) for number in range(1, 11)]
    assert len(set(bodies(request))) == 10
    assert not published.exists(), "nothing is published that nobody has read"
    with pytest.raises(Undecidable, match="Decide on each"):
        Decide(reviewer(), "approve", request.plan_hash).run(request.pk)
    Decide(reviewer(), "approve", request.plan_hash, steps=each(request, "3", "7")).run(request.pk)
    assert isinstance(carry_on(), Succeeded)
    found = output(request.run_id)
    assert found["drafted"] == 10
    names = {call["id"]: call["arguments"]["slug"] for call in request.plan["calls"]}
    assert [post["slug"] for post in found["left_out"]] == [names["3"], names["7"]]
    assert [post["slug"] for post in found["published"]] == [
        name for number, name in names.items() if number not in ("3", "7")
    ]
    assert {file.name for file in published.iterdir()} == {f"{post['slug']}.md" for post in found["published"]}
    first = (published / f"{names['1']}.md").read_text()
    assert first.startswith("---\ntitle: ")
    assert f"run: {request.run_id}\napproval: {request.pk}\n" in first
    assert bodies(request)[0] in first
    assert Effect.objects.filter(run=request.run_id, state="done", approval_id=request.pk).count() == 8


def test_posts_are_written_side_by_side_and_each_is_a_step() -> None:
    request = drafted({"topic": "bread", "posts": 3, "audience": "busy parents"})
    assert Step.objects.filter(run=request.run_id, name="write post").count() == 3
    assert all("busy parents" in body and "bread" in body for body in bodies(request))


def test_what_a_reviewer_wants_changed_is_rewritten_and_asked_about_again(published: Path) -> None:
    first = drafted({"topic": "bread", "posts": 2})
    Decide(reviewer(), "request_changes", first.plan_hash, "Give an example in each").run(first.pk)
    assert isinstance(carry_on(), Parked)
    second = Approval.objects.get(run_id=first.run_id, state="pending")
    assert (second.version, fresh(first).state) == (2, "superseded")
    assert all("For example: " in new and new != old for new, old in zip(bodies(second), bodies(first), strict=True))
    Decide(reviewer(), "approve", second.plan_hash, steps=each(second)).run(second.pk)
    assert isinstance(carry_on(), Succeeded)
    files = sorted(published.iterdir())
    assert len(files) == 2
    assert all("For example: " in file.read_text() for file in files)


def test_a_post_is_published_as_the_reviewer_edited_it(published: Path) -> None:
    request = drafted({"topic": "bread", "posts": 1})
    (call,) = request.plan["calls"]
    edited = {**call["arguments"], "body_markdown": "Flour, water, salt, time."}
    calls = [{"id": call["id"], "arguments": edited}]
    Decide(reviewer(), "approve_with_changes", request.plan_hash, calls=calls, steps={call["id"]: "approve"}).run(
        request.pk
    )
    carry_on()
    assert (published / f"{edited['slug']}.md").read_text().endswith("\n\nFlour, water, salt, time.\n")


def test_nothing_is_published_of_a_rejected_plan(published: Path) -> None:
    request = drafted({"topic": "bread", "posts": 2})
    Decide(reviewer(), "reject", request.plan_hash, "Not this week").run(request.pk)
    assert isinstance(carry_on(), Succeeded)
    found = output(request.run_id)
    assert found["published"] == []
    assert [post["why"] for post in found["left_out"]] == ["Not this week"] * 2
    assert not published.exists()


def test_a_post_that_is_there_already_is_left_as_it_is(published: Path) -> None:
    request = drafted({"topic": "bread", "posts": 2})
    name = request.plan["calls"][0]["arguments"]["slug"]
    published.mkdir()
    (published / f"{name}.md").write_text("Mine.")
    Decide(reviewer(), "approve", request.plan_hash, steps=each(request)).run(request.pk)
    carry_on()
    found = output(request.run_id)
    assert (published / f"{name}.md").read_text() == "Mine."
    assert found["left_out"][0]["why"] == f"There is a post {name} already. Choose another slug."
    assert len(found["published"]) == 1


def test_an_input_that_is_no_commission_is_refused(published: Path) -> None:
    run_id = start("publish.v1", "   ")
    outcome = carry_on()
    assert isinstance(outcome, Failed)
    assert outcome.problem["type"] == "/problems/bad-input"
    assert not Approval.objects.filter(run=run_id).exists()


@pytest.mark.parametrize(
    ("title", "taken", "found"),
    [
        ("Where to begin with bread", [], "where-to-begin-with-bread"),
        ("Was kostet's? Öl & Brot", [], "was-kostets-ol-brot"),
        ("パン", [], "post"),
        ("A year", ["a-year", "a-year-2"], "a-year-3"),
        ("word " * 30, [], "word-" * 11 + "word"),
    ],
)
def test_a_slug_is_an_address_of_its_own(title: str, taken: list[str], found: str) -> None:
    assert slug(title, taken) == found
