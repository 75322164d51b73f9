"""What groups failures: the class of the exception and our innermost frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from jobs import script
from jobs.faults import problem_of
from jobs.handlers import subject_of

Problem = dict[str, Any]


def problem(work: Callable[[], object]) -> Problem:
    """Return the problem that the work ends with."""
    try:
        work()
    except BaseException as error:
        return problem_of(error)
    raise AssertionError("it raised nothing")


class Reader:
    def read(self) -> None:
        raise KeyError(str(uuid4()))


class Writer:
    def read(self) -> None:
        raise KeyError(str(uuid4()))


def test_a_fault_is_the_same_whatever_id_is_in_its_text_and_on_whatever_line_it_is() -> None:
    def source(above: str) -> Callable[[], object]:
        scope: dict[str, Any] = {"__name__": "program"}
        exec(f"{above}def work():\n    raise KeyError({str(uuid4())!r})\n", scope)
        work: Callable[[], object] = scope["work"]
        return work

    first, moved = problem(source("")), problem(source("\n\n\n"))
    assert first["fingerprint"] == moved["fingerprint"]
    assert first["detail"] != moved["detail"]
    assert (first["at"], moved["at"]) == ("program:work:2", "program:work:5")


def test_methods_of_one_name_in_different_classes_are_different_places() -> None:
    first, second = problem(Reader().read), problem(Writer().read)
    assert first["fingerprint"] != second["fingerprint"]
    assert first["at"].startswith("tests.jobs.test_faults:Reader.read:")


def test_exceptions_of_one_name_from_different_modules_are_different() -> None:
    def raises(module: str) -> Problem:
        kind = type("Timeout", (Exception,), {"__module__": module})

        def work() -> None:
            raise kind("slow")

        return problem(work)

    assert raises("one")["fingerprint"] != raises("another")["fingerprint"]


def test_what_a_library_raises_is_ours_where_we_called_it() -> None:
    def parses() -> None:
        json.loads("{")

    assert ".parses:" in problem(parses)["at"]


def test_of_errors_raised_together_the_first_speaks() -> None:
    def together() -> None:
        try:
            Reader().read()
        except KeyError as error:
            raise ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", [error])]) from None

    found = problem(together)
    assert found["error"] == "KeyError"
    assert found["fingerprint"] == problem(Reader().read)["fingerprint"]


@pytest.mark.django_db
def test_statements_that_fail_differ_by_who_made_them() -> None:
    def statement() -> script.Script[None]:
        yield "SELECT %s::jsonb", [Jsonb("\0")]

    def here() -> None:
        script.run(statement())

    def there() -> None:
        script.run(statement())

    one, other = problem(here), problem(there)
    assert one["error"] == other["error"] == "DataError"
    assert one["fingerprint"] != other["fingerprint"]


def test_an_exception_without_a_trace_is_a_problem_too() -> None:
    assert (problem_of(ValueError())["at"], problem_of(ValueError())["detail"]) == ("?", "ValueError")


@pytest.mark.parametrize(
    ("requires", "subject"),
    [(None, "agent-run"), ("agent:helper@1", "agent:helper"), ("agent:helper@2", "agent:helper")],
)
def test_deaths_are_grouped_by_whose_work_it_was_whatever_its_version(requires: str | None, subject: str) -> None:
    assert subject_of("agent-run", requires) == subject
