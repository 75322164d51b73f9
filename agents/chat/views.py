"""The pages of the chat. Everything here works without JavaScript; with it, the socket does the talking."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.actors import actor_of
from accounts.problems import Problem
from agents import registry
from agents.chat import conversation_list, host, transcript
from agents.chat.conversations import DEFAULT_ENDPOINT, Delete, Rename, discard_unused, owned_by
from agents.chat.conversations import create as create_conversation
from agents.chat.step_words import arguments_of, decision_of, is_decision, result_of
from agents.models import CLIENT_ID_LENGTH, Conversation, Message, Step
from agents.modes import policy
from agents.runtime.errors import BadInput
from jobs.actions import Cancel, InvalidState

#: What to ask an agent that one does not know yet. The demo model answers each of them.
EXAMPLES = (
    "What can you do?",
    "How does Astra go on when a worker dies?",
    "Remember that our release day is Tuesday.",
)
#: And an agent that is about something particular. The third of these waits for a reviewer.
EXAMPLES_FOR = {
    "refunds-chat.v1": (
        "What about order A-1003?",
        "Refund order A-1004, 60 USD, it came too late.",
        "Refund order A-1001, 150 USD, it arrived broken.",
    )
}


@require_safe
@never_cache
def new(request: HttpRequest) -> HttpResponse:
    """Show an empty chat: the site's first page. ``with`` names the endpoint to talk to."""
    return _page(request, None, partner=request.GET.get("with", ""))


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def create(request: HttpRequest) -> HttpResponse:
    """Make a conversation and, if there is a text, send it as its first message."""
    if request.method != "POST":
        return redirect("home")
    text = request.POST.get("example") or request.POST.get("text", "")
    partner = request.POST.get("endpoint", "")
    endpoint = _endpoint(partner)
    if endpoint is None:
        return _page(request, None, text=text, status=503)
    user = _person(request)
    conversation: Conversation | None = None
    try:
        # The same form once more, by a second click say, is the same conversation.
        form = request.POST.get("client_id", "")[:CLIENT_ID_LENGTH]
        conversation = create_conversation(user, endpoint.name, key=f"{form}\n{text}" if form else None)
        if text.strip():
            _send(request, conversation, text)
    except (Problem, BadInput) as problem:
        if conversation is not None:
            discard_unused(conversation)
        return _page(request, None, text=text, problem=problem, partner=partner)
    return redirect("chat", conversation.pk)


@require_safe
@never_cache
def chat(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Show one conversation, a reply that is being written included."""
    return _page(request, _own(request, conversation_id))


@require_safe
@never_cache
def messages(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Return a stretch of the transcript alone, for the page that has the rest."""
    conversation = _own(request, conversation_id)
    found = transcript.read(
        conversation, request.user, before=_place(request, "before"), after=_place(request, "after")
    )
    return render(request, "chat/transcript.html", {"conversation": conversation, "transcript": found})


@require_safe
@never_cache
def conversations(request: HttpRequest) -> HttpResponse:
    """Return the list of one's conversations alone."""
    return render(request, "chat/list.html", _list(request, _uuid(request.GET.get("current", ""))))


@require_POST
def send(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Send a message without the socket: a new one, or ``again`` what a run was asked."""
    conversation = _own(request, conversation_id)
    text = _asked(conversation, _uuid(request.POST.get("again", ""))) or request.POST.get("text", "")
    try:
        _send(request, conversation, text)
    except (Problem, BadInput) as problem:
        return _page(request, conversation, text=text, problem=problem)
    return redirect("chat", conversation.pk)


@require_POST
def stop(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Stop the reply that is being written without the socket. What is there of it stays."""
    conversation = _own(request, conversation_id)
    writing = conversation.messages.filter(status=Message.Status.WRITING).exclude(run=None).first()
    if writing is not None and writing.run_id is not None:
        with contextlib.suppress(InvalidState):  # it ended by itself meanwhile
            Cancel(actor_of(request)).run(writing.run_id)
    return redirect("chat", conversation.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def rename(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Give a conversation another title."""
    conversation = _own(request, conversation_id)
    context: dict[str, Any] = {"conversation": conversation, "title": conversation.title, "section": "chat"}
    if request.method == "POST":
        context["title"] = request.POST.get("title", "")
        try:
            Rename(actor_of(request)).run(conversation.pk, context["title"])
        except BadInput as refusal:
            context["error"] = refusal.detail
            return render(request, "chat/rename.html", context, status=422)
        return _back(request, conversation)
    return render(request, "chat/rename.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def delete(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Delete a conversation, after asking."""
    conversation = _own(request, conversation_id)
    if request.method == "POST":
        Delete(actor_of(request)).run(conversation.pk)
        return _back(request, None)
    return render(request, "chat/delete.html", {"conversation": conversation, "section": "chat"})


@require_safe
@never_cache
def text(request: HttpRequest, conversation_id: UUID, message_id: UUID) -> HttpResponse:
    """Return a message as it was written, to be copied."""
    found = get_object_or_404(Message, pk=message_id, conversation=_own(request, conversation_id))
    return HttpResponse(found.text, content_type="text/plain; charset=utf-8")


@require_safe
@never_cache
def step(request: HttpRequest, conversation_id: UUID, run_id: UUID, key: str) -> HttpResponse:
    """Return what went into one step of an answer and what came out of it."""
    conversation = _own(request, conversation_id)
    answer = get_object_or_404(
        Message.objects.select_related("run"), conversation=conversation, run=run_id, role=Message.Role.ASSISTANT
    )
    if answer.run is None:
        raise Http404
    found = Step.objects.filter(
        run=answer.run, epoch=answer.run.journal_epoch, key=key, kind__in=transcript.SHOWN
    ).first()
    context: dict[str, Any] = {"step": found}
    if found is not None and found.kind == Step.Kind.WAIT:
        context |= {"decision": decision_of(found.output) if is_decision(found.output) else None}
        context |= {"given": found.input}
    elif found is not None:
        context |= {"given": arguments_of(found.input), "result": result_of(found.output)}
    return render(request, "chat/step.html", context)


def _page(
    request: HttpRequest,
    conversation: Conversation | None,
    *,
    text: str = "",
    partner: str = "",
    problem: Problem | BadInput | None = None,
    status: int = 200,
) -> HttpResponse:
    """Show a conversation, or the beginning of one; with what was not sent, and why."""
    endpoint = (
        _endpoint(partner) if conversation is None else registry.current().endpoints.get(conversation.endpoint.name)
    )
    context: dict[str, Any] = {
        "section": "chat",
        "conversation": conversation,
        "endpoint": endpoint if endpoint is not None and endpoint.active else None,
        "limit": endpoint.longest_message if endpoint is not None else 0,
        "partners": _partners() if conversation is None else (),
        "examples": EXAMPLES_FOR.get(endpoint.name, EXAMPLES) if endpoint is not None else (),
        "text": text,
        "client_id": uuid4(),
        **_list(request, conversation.pk if conversation is not None else None),
    }
    if conversation is not None:
        before = _place(request, "before")
        context |= {
            "transcript": transcript.read(conversation, request.user, before=before),
            "is_history": before is not None,
        }
    if problem is not None:
        context["problem"] = {"title": problem.title, "detail": problem.detail, "slug": problem.slug}
        status = problem.status if isinstance(problem, Problem) else 422
    response = render(request, "chat/chat.html", context, status=status)
    if isinstance(problem, Problem):
        for header, value in problem.headers.items():
            response[header] = value
    return response


def _list(request: HttpRequest, current: UUID | None) -> dict[str, Any]:
    return {
        "conversations": conversation_list.page(request.user, cursor=request.GET.get("older", "")),
        "is_older": bool(request.GET.get("older")),
        "current": current,
    }


def _own(request: HttpRequest, conversation_id: UUID) -> Conversation:
    """Return a conversation of the person's own; anybody else's looks as if it did not exist."""
    return get_object_or_404(owned_by(request.user), pk=conversation_id)


def _partners() -> list[registry.EndpointInfo]:
    """Return the endpoints that one can talk to, the usual one first."""
    known = registry.current().endpoints
    able = [info for info in known.values() if info.active and policy(info.mode).concurrency.entrance == "chat"]
    return sorted(able, key=lambda info: (info.name != DEFAULT_ENDPOINT, info.name))


def _endpoint(wanted: str = "") -> registry.EndpointInfo | None:
    """Return the endpoint of a new conversation: the one that is wanted, if there is such a one, else the usual one."""
    able = _partners()
    return next((info for info in able if info.name == wanted), able[0] if able else None)


def _asked(conversation: Conversation, run_id: UUID | None) -> str:
    """Return the message that a run of the conversation answers, or an empty text."""
    if run_id is None:
        return ""
    found = conversation.messages.filter(run=run_id, role=Message.Role.USER).values_list("text", flat=True).first()
    return found or ""


def _send(request: HttpRequest, conversation: Conversation, text: str) -> None:
    client_id = request.POST.get("client_id", "")[:CLIENT_ID_LENGTH] or uuid4().hex
    host.send_from_thread(conversation.pk, _person(request), text, client_id)


def _back(request: HttpRequest, conversation: Conversation | None) -> HttpResponse:
    """Go back to the conversation that was open, if it is another one than that which is gone."""
    opened = _uuid(request.POST.get("opened", ""))
    if opened is not None and owned_by(request.user).filter(pk=opened).exists():
        return redirect("chat", opened)
    return redirect("chat", conversation.pk) if conversation is not None else redirect("home")


def _person(request: HttpRequest) -> User:
    """Return who is signed in; every page here is for people who are."""
    assert isinstance(request.user, User)
    return request.user


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _place(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
