"""Do one thing to many jobs, in the background: counted once each, whatever dies on the way.

Here an operation is asked for and stopped; `jobs.bulk_worker` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from django.db import OperationalError, connection, transaction
from django.db.models import Func, QuerySet, TextField, UUIDField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast, Now
from psycopg.types.json import Jsonb

from audit import trail
from audit.time_limit import in_time
from audit.trail import Actor
from jobs import script
from jobs.actions import note_of
from jobs.ids import since
from jobs.models import BulkOperation
from jobs.queries import COUNT_UP_TO, Bounded
from jobs.script import Script
from jobs.states import ENDED

#: The states of jobs that a verb can be done to. Others of a selection are left out, and not counted.
STATES: dict[str, tuple[str, ...]] = {
    BulkOperation.Verb.REDRIVE: ("dead", "cancelled"),
    BulkOperation.Verb.CANCEL: ("scheduled", "blocked", "queued", "running", "waiting"),
    BulkOperation.Verb.DISCARD: ("dead",),
}

#: A selection of at most so many jobs is fixed when it is asked for: these very jobs, each of them accounted for. Of a
#: larger one the filter is kept, and what it finds when its turn comes.
FIXED_UP_TO = COUNT_UP_TO
#: Where the fixed ids stand in the selection.
FIXED = "fixed"
#: How long finding the jobs may take while somebody waits for the page.
FIX_TIMEOUT_S = 10.0
#: A form is good for so long: its id then tells when the operation was asked for.
FORM_S = 24 * 3600
#: How long a person who stops an operation waits for the job that is being changed.
STOP_TIMEOUT = "10s"


class BulkError(ValueError):
    """What was asked for can't be done; the words say why."""


class UnknownVerb(BulkError):
    """There is no such verb."""


class NothingSelected(BulkError):
    """Nothing can be done to any job of the selection."""


class NoteMissing(BulkError):
    """Whoever discards says why."""


class NoPerson(BulkError):
    """Only a person asks for an operation: it is done in their name."""


class AlreadyUsed(BulkError):
    """Another operation has this id."""


class OperationEnded(BulkError):
    """It can't be stopped any more."""


class UnknownOperation(LookupError):
    """There is no such operation."""


class BadForm(BulkError):
    """The form's id is none that a page gave out lately."""


class Busy(BulkError):
    """The operation's row could not be locked in time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The jobs that are meant: those of a selection which are in one of these states."""

    selection: Mapping[str, Any]
    states: Sequence[str]
    #: No job is meant that was submitted later, nor, where the states are ends, one that ended later. None: any.
    as_of: datetime | None = None

    def lookups(self, prefix: str = "") -> dict[str, Any]:
        """Return what a job has to be beside selected, as Django's lookups; ``prefix`` leads to the job."""
        found: dict[str, Any] = {f"{prefix}state__in": self.states}
        if self.as_of is not None:
            found[f"{prefix}created_at__lte"] = self.as_of
            if ENDED.issuperset(self.states):
                found[f"{prefix}finished_at__lte"] = self.as_of
        return found


@dataclass(frozen=True, slots=True)
class Selector:
    """How an app finds the jobs of a selection. `jobs` knows only their ids."""

    name: str
    #: (what is wanted, below, limit) → ids under ``below`` (None: from the newest), the newest first.
    ids: Callable[[Wanted, UUID | None, int], list[UUID]]


_selectors: dict[str, Selector] = {}


def register_selector(selector: Selector) -> None:
    """Make a selector known by its name. Every process that works on operations registers the same ones."""
    _selectors[selector.name] = selector


def selector(name: str) -> Selector:
    """Return a selector.

    Raises:
        LookupError: this process knows none of that name.
    """
    return _selectors[name]


class _Each(Func):
    """Each text of a JSON array, a row of its own."""

    function = "jsonb_array_elements_text"
    set_returning = True


def fixed_ids(operation_id: UUID) -> QuerySet[BulkOperation, Any]:
    """Return a query of the ids that an operation's selection was fixed to; none if it was too large for that."""
    each = Cast(_Each(KeyTransform(FIXED, "selection"), output_field=TextField()), UUIDField())
    return BulkOperation.objects.filter(pk=operation_id).values_list(each, flat=True)


def start(
    actor: Actor,
    operation_id: UUID,
    verb: str,
    *,
    selected_by: str,
    selection: Mapping[str, Any],
    words: str,
    options: Mapping[str, Any] | None = None,
) -> BulkOperation:
    """Ask for an operation; a scheduler takes it up within a second or two.

    The id is the caller's, so that what is sent twice is one operation: the second time it is only returned.

    Args:
        selection: which jobs, as the selector ``selected_by`` understands it; plain JSON.
        words: the selection for people.
        options: ``from`` (checkpoint or start) of a redrive, ``note`` of a discard.

    Raises:
        UnknownVerb, NothingSelected, NoteMissing, NoPerson: nothing was begun.
        AlreadyUsed: somebody else, or the same person for something else, used this id.
    """
    options = _options(verb, options or {})
    if actor.user_id is None:
        raise NoPerson("Only a person who is signed in can ask for this.")
    with transaction.atomic():
        if (earlier := BulkOperation.objects.filter(pk=operation_id).first()) is not None:
            return _same(earlier, actor, verb, selection, options)
        fixed, expected = _fix(verb, selected_by, selection)
        if not expected and not expected.more:
            raise NothingSelected(f"There is nothing to {verb}: none of these is {_are(verb)} now.")
        kept = {**selection, FIXED: fixed} if fixed is not None else dict(selection)
        made = script.run(
            _insert(actor, operation_id, verb, selected_by, kept, " ".join(words.split())[:300], options, expected)
        )
        operation = BulkOperation.objects.get(pk=operation_id)
        if not made:
            return _same(operation, actor, verb, selection, options)
        trail.record(
            actor,
            "bulk.start",
            "operation",
            operation_id,
            note=options.get("note", ""),
            after={"verb": verb, "tasks": operation.words, "expected": str(expected), **options},
        )
    return operation


def form_id(text: str) -> UUID:
    """Return the id that a form was given.

    Raises:
        BadForm: it is none that a page gave out in the last hours.
    """
    try:
        found = UUID(text)
    except ValueError:
        raise BadForm("This form was not sent whole. Look at it again, then confirm.") from None
    if not since(FORM_S) <= found <= since(-60):
        raise BadForm("This form is too old. Look at what it shows now, then confirm.")
    return found


def _options(verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if verb not in STATES:
        raise UnknownVerb("Choose what to do: redrive, cancel or discard.")
    if verb == BulkOperation.Verb.REDRIVE:
        return {"from": "start" if given.get("from") == "start" else "checkpoint"}
    if verb == BulkOperation.Verb.DISCARD:
        note = note_of(str(given.get("note", "")))
        if not note:
            raise NoteMissing("Say why they are given up: the note goes into the audit trail.")
        return {"note": note}
    return {}


def _are(verb: str) -> str:
    """Say in words what a job must be for the verb."""
    return {"redrive": "a dead letter or cancelled", "cancel": "still under way", "discard": "a dead letter"}[verb]


def _fix(verb: str, selected_by: str, selection: Mapping[str, Any]) -> tuple[list[str] | None, Bounded]:
    """Return the ids as they are now, or None where they are too many or too slow to find; and how many there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        wanted = Wanted(selection, STATES[verb], cursor.fetchone()[0])
    found = in_time(FIX_TIMEOUT_S, lambda: selector(selected_by).ids(wanted, None, FIXED_UP_TO + 1))
    if found is None:
        return None, Bounded(0, more=True)
    counted = Bounded.of(len(found), FIXED_UP_TO)
    return (None if counted.more else [str(each) for each in found]), counted


def _insert(
    actor: Actor,
    operation_id: UUID,
    verb: str,
    selected_by: str,
    selection: dict[str, Any],
    words: str,
    options: dict[str, Any],
    expected: Bounded,
) -> Script[bool]:
    rows = yield (
        "INSERT INTO jobs_bulkoperation (id, verb, options, selector, selection, words, state, expected, expected_more,"
        " changed, refused, refusals, problem, asked_by_id, asked_by_name, address, request_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, 'pending', %s, %s, 0, 0, '{}', '', %s, %s, %s, %s)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        [
            operation_id,
            verb,
            Jsonb(options),
            selected_by,
            Jsonb(selection),
            words,
            expected.number,
            expected.more,
            actor.user_id,
            actor.name,
            actor.address,
            actor.request_id,
        ],
    )
    return bool(rows)


def _same(
    earlier: BulkOperation, actor: Actor, verb: str, selection: Mapping[str, Any], options: Mapping[str, Any]
) -> BulkOperation:
    """Return the operation that has the id already, if it is the one that is asked for again."""
    asked = {name: value for name, value in earlier.selection.items() if name != FIXED}
    if (earlier.asked_by_id, earlier.verb, earlier.options, asked) != (actor.user_id, verb, options, selection):
        raise AlreadyUsed("This form has been sent before, with something else in it. Look at it again, then confirm.")
    return earlier


@dataclass(frozen=True, slots=True)
class Stop:
    """Let an operation change no further job. What it has changed stays."""

    actor: Actor

    def run(self, operation_id: UUID) -> None:
        """Stop it.

        Raises:
            OperationEnded: it has finished, failed, or somebody stopped it before.
            Busy: a job that is being changed is locked by something else; it can be tried again.
            UnknownOperation: there is no such operation.
        """
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [STOP_TIMEOUT])
                self._stop(operation_id)
        except OperationalError as error:
            if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
            raise Busy("It could not be stopped just now: the task it is at is locked. Try again.") from error

    def _stop(self, operation_id: UUID) -> None:
        rows = BulkOperation.objects.select_for_update(no_key=True, of=("self",)).defer("selection")
        operation = rows.filter(pk=operation_id).first()
        if operation is None:
            raise UnknownOperation(f"there is no operation {operation_id}")
        if operation.has_ended:
            raise OperationEnded(f"Not stopped: it had {_ended_how(operation)} already.")
        BulkOperation.objects.filter(pk=operation_id).update(
            state=BulkOperation.State.STOPPED,
            problem=f"{self.actor.name} stopped it.",
            finished_at=Now(),
            taken_by=None,
            taken_until=None,
        )
        trail.record(
            self.actor,
            "bulk.stop",
            "operation",
            operation_id,
            before={"state": operation.state, "changed": operation.changed, "refused": operation.refused},
            after={"state": BulkOperation.State.STOPPED},
        )


def _ended_how(operation: BulkOperation) -> str:
    return {"stopped": "been stopped", "failed": "failed"}.get(operation.state, "finished")
