from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from astra_site.console.sparkline import HEIGHT, WIDTH, draw, in_words
from astra_site.templatetags.charts import rate
from jobs.queries import Bounded


def line(*numbers: int | None) -> list[Bounded | None]:
    """Return values as they are drawn."""
    return [None if number is None else Bounded(number) for number in numbers]


def drawn(*numbers: int | None) -> ElementTree.Element:
    """Return the drawing, read as XML."""
    return ElementTree.fromstring(draw(line(*numbers), "Queued"))


def strokes(svg: ElementTree.Element) -> str:
    """Return the path of the line itself."""
    (found,) = svg.findall("path[@class='spark-line']")
    return found.attrib["d"]


def test_a_line_is_told_by_its_lowest_its_highest_and_its_last_value() -> None:
    assert in_words(line(3, 240, 0, 12), "Queued") == "Queued in the last hour: 0 to 240, now 12"


def test_a_line_that_never_moves_is_told_so() -> None:
    assert in_words(line(0, 0, 0), "Queued") == "Queued in the last hour: always 0"


def test_a_line_without_a_sample_says_so_and_draws_nothing() -> None:
    assert in_words(line(None, None), "Queued") == "Queued in the last hour: nothing was sampled"
    assert strokes(drawn(None, None)) == ""
    assert strokes(drawn()) == ""


def test_a_line_that_ends_before_now_does_not_claim_to_know_now() -> None:
    words = "Queued in the last hour: 1 to 2, at last 2; part of it was not sampled (1 of 3)"
    assert in_words(line(1, 2, None), "Queued") == words


def test_a_count_that_stopped_says_so_in_the_words() -> None:
    values = [Bounded(7), Bounded(10_000, more=True)]
    assert in_words(values, "Queued") == "Queued in the last hour: 7 to 10,000+, now 10,000+"


def test_the_drawing_has_a_role_a_name_and_a_title_that_say_it_in_words() -> None:
    svg = drawn(0, 5)
    words = "Queued in the last hour: 0 to 5, now 5"
    assert (svg.attrib["role"], svg.attrib["aria-label"], svg.findtext("title")) == ("img", words, words)


def test_the_words_cannot_break_out_of_the_drawing() -> None:
    assert "<b>" not in draw(line(1), "<b>\"'")


def test_the_policy_of_the_pages_is_kept_no_style_attribute() -> None:
    assert all("style" not in part.attrib for part in drawn(1, 2).iter())


def test_a_gap_breaks_the_line() -> None:
    assert strokes(drawn(1, 2, 3)).count("M") == 1
    assert strokes(drawn(1, 2, None, 3, 4)).count("M") == 2


def test_a_lone_sample_between_gaps_is_a_dot() -> None:
    assert re.fullmatch(r"M[\d.]+ [\d.]+h0", strokes(drawn(None, 2, None)))


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (0, 10_000, 3), tuple(range(61)), (5, None, 5)])
def test_the_line_stays_within_its_drawing(numbers: tuple[int | None, ...]) -> None:
    places = [float(number) for number in re.findall(r"[\d.]+", strokes(drawn(*numbers)).replace("h0", ""))]
    assert all(0 < x < WIDTH for x in places[::2])
    assert all(0 < y < HEIGHT for y in places[1::2])


def test_more_is_higher() -> None:
    low, high = re.findall(r"[ML][\d.]+ ([\d.]+)", strokes(drawn(1, 9)))
    assert float(high) < float(low)


def test_one_lone_task_does_not_look_like_a_flood() -> None:
    _, one = re.findall(r"[ML][\d.]+ ([\d.]+)", strokes(drawn(0, 1)))
    assert float(one) > HEIGHT / 2


def test_a_flat_zero_is_drawn_calm() -> None:
    assert drawn(0, 0, None).attrib["class"] == "spark calm"
    assert drawn(0, 1).attrib["class"] == "spark"


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0, "0"), (0.02, "<0.1"), (0.3, "0.3"), (9.9, "9.9"), (9.96, "10"), (1234, "1,234")],
)
def test_a_rate_is_told_in_the_precision_that_tells(value: float | None, words: str) -> None:
    assert rate(value) == words
