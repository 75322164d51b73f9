"""Every problem type that Astra answers with, and the page that explains each."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from accounts.problems import CONTENT_TYPE, Problem, kinds
from agents.runtime.errors import BadInput, RunError


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
        "bad-output",
        "The answer does not fit the endpoint",
        None,
        "The agent's answer is not what the endpoint's output schema promises, so it is not handed out.",
        "Its steps hold what it answered. Who runs the agent changes its instructions or the schema.",
    ),
    ProblemType(
        "not-delivered",
        "A message was not delivered",
        None,
        "A mail server or a channel of `ASTRA_NOTIFY_URLS` did not take a message. It is tried again before it counts.",
        "The detail says what it answered. An operator mends the settings or the other side, then redrives it.",
    ),
    ProblemType(
        "unknown-handler",
        "No handler for this job",
        None,
        "No worker knows how to do this kind of work.",
        "An operator starts workers of the release that knows it.",
    ),
)


#: What to do about each problem of a run. What it means is the docstring of its class.
ADVICE = {
    "bad-input": "`errors` says where in the request and why. `GET /api/v1/endpoints` shows the endpoint's schema.",
    "bad-reply": "It is tried again by itself. If it stays, use another model.",
    "budget-exceeded": "Give the run more, or ask for less. What it finished is kept: a redrive goes on from there.",
    "changes-requested": "The detail says which. The program's author has the agent revise its plan: "
    "`ctx.approve(…, revise=…)`.",
    "context-overflow": "Ask in smaller pieces, or use a model that reads more.",
    "cost-cap": "Submit it with a higher `cost_cap_usd`, or ask for less.",
    "effect-unknown": "A person says on the approvals page whether it happened; then the run goes on.",
    "journal-unavailable": "Nothing: it goes on when the database answers again.",
    "max-tokens": "Submit it with more `max_tokens`, up to the agent's own limit, or ask for less.",
    "max-turns": "Submit it with more `max_turns`, up to the agent's own limit, or ask for less.",
    "model-refused": "The detail is the provider's own. An operator looks at the key and at the model's name.",
    "model-unavailable": "It is tried again by itself. If it stays, redrive it when the provider is back.",
    "not-approved": "The approval says who decided, and why. The program's author handles what people may decide.",
    "not-json": "The program's author returns text, numbers, lists and objects from steps.",
    "output-too-large": "The program's author keeps large material outside and returns its address.",
    "plan-altered": "An operator looks at the trail of the approval and at who can write to the database. Then redrive "
    "it from the start: people are asked again.",
    "plan-rejected": "Nothing, or submit another task that heeds what they said.",
    "price-unknown": "Leave `cost_cap_usd` out, or give the model's price under `models` in `astra.yml`.",
    "program-error": "The program's author finds the place under `at`. Then redrive it: finished steps are kept.",
    "program-misuse": "The detail says which call; the program's author changes it.",
    "run-failed": "The detail says why. Its steps show how far it came.",
    "start-unreachable": "Look whether the address is right and open to all, then redrive the task, or send another "
    "input.",
    "step-failed": "The program's author looks at the step. Then redrive it: finished steps are kept.",
    "version-mismatch": "An operator brings back the code it began with, or redrives it from the start.",
    "wall-clock": "Redrive it to go on, or give the agent a longer `wall_clock_s`.",
}
#: Bases of kinds, whose docstrings speak to programmers.
MEANING = {
    "budget-exceeded": "The run used up what it was given.",
    "not-approved": "People did not approve what the run wanted to do.",
    "run-failed": "The run can't go on.",
}


@cache
def registry() -> dict[str, ProblemType]:
    """Return every problem type by its slug."""
    import agents.api
    import agents.invoke
    import agents.programs  # noqa: F401  problems are declared where they are raised

    found = {entry.slug: entry for entry in OF_JOBS}
    for kind in kinds():
        found[kind.slug] = ProblemType(kind.slug, kind.title, kind.status, *_doc(kind))
    for error in _run_errors(RunError):
        status = 422 if error is BadInput else None
        meaning = MEANING.get(error.slug) or _doc(error)[0]
        found.setdefault(error.slug, ProblemType(error.slug, error.title, status, meaning, ADVICE.get(error.slug, "")))
    return dict(sorted(found.items()))


@login_not_required
def explain(request: HttpRequest, slug: str) -> HttpResponse:
    """Show what a problem type means: the address that every problem carries as its `type`."""
    entry = registry().get(slug)
    if entry is None:
        raise Http404(f"There is no problem type {slug}.")
    context = {"problem": entry, "meaning": marked(entry.meaning), "advice": marked(entry.advice)}
    return render(request, "problems/explain.html", context)


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


def marked(text: str) -> SafeString:
    """Return a text as HTML, what stands between backticks as code."""
    parts = [("<code>{}</code>" if place % 2 else "{}", part) for place, part in enumerate(text.split("`"))]
    return mark_safe("".join(format_html(shape, part) for shape, part in parts))  # noqa: S308 - each part is escaped


def _doc(kind: type) -> tuple[str, str]:
    first, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    return " ".join(first.split()), " ".join(rest.split())


def _run_errors(base: type[RunError]) -> list[type[RunError]]:
    return [base, *(error for kind in base.__subclasses__() for error in _run_errors(kind))]
