"""Every problem type that Astra answers with, and the page that explains each."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from accounts.problems import CONTENT_TYPE, Problem, kinds
from agents.runtime.errors import RunError


@dataclass(frozen=True, slots=True)
class ProblemType:
    """What a problem's type says, for people. ``status`` is None for one that a task ends with."""

    slug: str
    title: str
    status: int | None
    meaning: str
    advice: str = ""


#: Problems of jobs, which know nothing of the HTTP API.
OF_JOBS = (
    ProblemType(
        "worker-died",
        "Its process died each time",
        None,
        "The process that ran the task died, again and again, without finishing another step.",
        "An operator looks at the workers' logs: memory that ran out, a native library that crashed. Then redrive it.",
    ),
    ProblemType(
        "unexpected-error",
        "An unexpected error",
        None,
        "The code that ran the task raised an error that it does not know. It is tried again before it counts.",
        "The detail names the error, the fingerprint groups it with its like.",
    ),
    ProblemType(
        "unknown-handler",
        "No handler for this job",
        None,
        "No worker knows how to do this kind of work.",
        "An operator starts workers of the release that knows it.",
    ),
)


@cache
def registry() -> dict[str, ProblemType]:
    """Return every problem type by its slug."""
    import agents.api
    import agents.invoke  # noqa: F401  their problems are declared where they are raised

    found = {entry.slug: entry for entry in OF_JOBS}
    for kind in kinds():
        found[kind.slug] = ProblemType(kind.slug, kind.title, kind.status, *_doc(kind))
    for error in _run_errors(RunError):
        found.setdefault(error.slug, ProblemType(error.slug, error.title, None, *_doc(error)))
    return dict(sorted(found.items()))


@login_not_required
def explain(request: HttpRequest, slug: str) -> HttpResponse:
    """Show what a problem type means: the address that every problem carries as its `type`."""
    entry = registry().get(slug)
    if entry is None:
        raise Http404(f"There is no problem type {slug}.")
    return render(request, "problems/explain.html", {"problem": entry})


@login_not_required
def index(request: HttpRequest) -> HttpResponse:
    """List all problem types."""
    return render(request, "problems/index.html", {"problems": registry().values()})


def answer(problem: Problem) -> HttpResponse:
    """Turn a problem into a response."""
    return JsonResponse(
        problem.body(), status=problem.status, content_type=CONTENT_TYPE, headers=problem.headers or None
    )


def answer_run_error(error: RunError) -> HttpResponse:
    """Turn an error that the runtime shares with the API, like a bad input, into a response."""
    return JsonResponse({**error.as_problem(), "status": 422}, status=422, content_type=CONTENT_TYPE)


def _doc(kind: type) -> tuple[str, str]:
    first, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    return " ".join(first.split()), " ".join(rest.split())


def _run_errors(base: type[RunError]) -> list[type[RunError]]:
    return [base, *(error for kind in base.__subclasses__() for error in _run_errors(kind))]
