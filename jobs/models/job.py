from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce, Left, Now

from jobs.ids import uuid7
from jobs.models.worker import Worker
from jobs.states import ENDED, State

#: What groups failures that are alike: the class of the exception and our innermost frame, as a hash or in words.
FINGERPRINT = Coalesce(KeyTextTransform("fingerprint", "error"), Value(""), output_field=models.TextField())
#: What a failure is searched by: the beginning of what was said of it.
SEARCHED_ERROR = SearchVector(
    Left(Coalesce(KeyTextTransform("title", "error"), Value("")), 500),
    Left(Coalesce(KeyTextTransform("detail", "error"), Value("")), 2_000),
    Left(Coalesce(KeyTextTransform("type", "error"), Value("")), 200),
    config="simple",
)
#: Jobs that have failed and have not succeeded since.
HAS_ERROR = Q(error__isnull=False) & ~Q(state="succeeded")


class Priority(models.IntegerChoices):
    """P0 first. A lane serves a higher priority before any lower one."""

    P0 = 0, "P0, a person is waiting"
    P1 = 1, "P1, normal"
    P2 = 2, "P2, a clock fired it"
    P3 = 3, "P3, bulk"


class JobQuerySet(models.QuerySet["Job"]):
    """Named filters over jobs."""

    def live(self) -> JobQuerySet:
        """Jobs that have not ended."""
        return self.exclude(state__in=ENDED)

    def dead(self) -> JobQuerySet:
        """Dead letters."""
        return self.filter(state=State.DEAD)


class Job(models.Model):
    """A unit of durable background work: a handler's name and a payload. It knows nothing of agents."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    handler = models.CharField(max_length=60)
    payload = models.JSONField(default=dict)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="jobs", db_index=False
    )

    state = models.CharField(max_length=10, choices=State.choices)
    lane = models.CharField(max_length=40, help_text="Where it runs next; `suspect` after its worker died.")
    home_lane = models.CharField(max_length=40, help_text="Where it belongs.")
    priority = models.PositiveSmallIntegerField(choices=Priority.choices, default=Priority.P1)
    fair_tag = models.BigIntegerField(default=0, help_text="Start-time fair queueing over users: lowest goes first.")
    requires = models.CharField(
        max_length=200, null=True, blank=True, help_text="What a worker must have loaded, like agent:assistant@1."
    )
    partition_key = models.CharField(max_length=200, null=True, blank=True, help_text="Jobs with one key run in order.")
    hold_keys = ArrayField(models.CharField(max_length=120), default=list, help_text="Holds on these stop it.")
    blocked_on = ArrayField(
        models.CharField(max_length=140), default=list, help_text="Why it may not be queued. Empty unless blocked."
    )
    run_at = models.DateTimeField(null=True, blank=True, help_text="Not before this time.")

    attempt = models.PositiveIntegerField(default=0, help_text="Attempts that failed. Crashes are counted apart.")
    max_attempts = models.PositiveIntegerField(default=3)
    crashes = models.PositiveIntegerField(default=0, help_text="Workers that died under it since its last new step.")
    generation = models.PositiveIntegerField(default=1, help_text="Raised by each redrive.")
    time_limit_s = models.PositiveIntegerField(null=True, blank=True, help_text="Wall clock of one claim, seconds.")

    fence = models.BigIntegerField(
        default=0, help_text="Raised by each claim; a stale owner's writes carry an old one."
    )
    worker = models.ForeignKey(Worker, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    progress = models.JSONField(null=True, blank=True)
    error = models.JSONField(
        null=True, blank=True, help_text="The last problem: type, title, detail, fingerprint, retriable."
    )

    created_at = models.DateTimeField(db_default=Now())
    queued_at = models.DateTimeField(null=True, blank=True, help_text="When it last became queued.")
    claimed_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True, help_text="First claim of this generation.")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        indexes = [
            # The claim: best eligible row of a lane.
            models.Index(fields=["lane", "priority", "fair_tag", "id"], condition=Q(state="queued"), name="job_claim"),
            # The fair tag of a job that becomes queued: its user's last tag in a lane.
            models.Index(
                fields=["lane", "priority", "user", "-fair_tag"], condition=Q(state="queued"), name="job_fair_tag"
            ),
            # Oldest age per lane.
            models.Index(fields=["lane", "queued_at"], condition=Q(state="queued"), name="job_oldest"),
            # The reconciler: due jobs.
            models.Index(fields=["run_at"], condition=Q(state="scheduled"), name="job_due"),
            # The reconciler and the heartbeat: what a worker holds.
            models.Index(fields=["worker"], condition=Q(state="running"), name="job_held"),
            # Partition order: the oldest job of a key that has not ended.
            models.Index(
                fields=["partition_key", "id"],
                condition=Q(partition_key__isnull=False)
                & Q(state__in=["scheduled", "blocked", "queued", "running", "waiting"]),
                name="job_partition",
            ),
            # Sweeps over blocked jobs.
            models.Index(fields=["id"], condition=Q(state="blocked"), name="job_blocked"),
            # State tabs of the console, newest first.
            models.Index(fields=["state", "-id"], name="job_by_state"),
            # Dead letters by when they came: the overview.
            models.Index(fields=["-finished_at"], condition=Q(state="dead"), name="job_dead"),
            # Dead letters that are alike: how many, the first and the last.
            models.Index(FINGERPRINT, F("finished_at"), condition=Q(state="dead"), name="job_dead_alike"),
            # Tasks whose last failure is of one kind, newest first; and words of what was said of it.
            models.Index(FINGERPRINT, F("id").desc(), condition=HAS_ERROR, name="job_by_fingerprint"),
            GinIndex(SEARCHED_ERROR, condition=HAS_ERROR, name="job_error_search"),
            # A user's own tasks, newest first.
            models.Index(fields=["user", "-id"], name="job_by_user"),
            # Recently ended jobs per lane, for throughput and the estimated wait.
            models.Index(
                fields=["home_lane", "-finished_at"], condition=Q(finished_at__isnull=False), name="job_ended"
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=State.values), name="job_state_known"),
            models.CheckConstraint(condition=Q(priority__in=Priority.values), name="job_priority_known"),
            models.CheckConstraint(
                condition=Q(state="blocked") & ~Q(blocked_on=[]) | ~Q(state="blocked") & Q(blocked_on=[]),
                name="job_blocked_has_reasons",
            ),
            models.CheckConstraint(
                condition=Q(state="running", worker__isnull=False) | ~Q(state="running") & Q(worker__isnull=True),
                name="job_running_has_worker",
            ),
            models.CheckConstraint(
                condition=~Q(state="scheduled") | Q(run_at__isnull=False), name="job_scheduled_has_time"
            ),
            models.CheckConstraint(
                condition=Q(state__in=sorted(ENDED), finished_at__isnull=False)
                | ~Q(state__in=sorted(ENDED)) & Q(finished_at__isnull=True),
                name="job_ended_has_time",
            ),
            models.UniqueConstraint(
                fields=["partition_key"],
                condition=Q(partition_key__isnull=False) & Q(state__in=["queued", "running", "waiting"]),
                name="job_one_active_per_partition",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.handler} {self.id}"


class JobEvent(models.Model):
    """What happened to a job, in order: every change of state, and what its run reports of itself.

    Events of one job are written under a lock on its row, so their ids grow in the order they become visible: a
    reader who has seen id N misses nothing by asking for ids over N.
    """

    class Kind(models.TextChoices):
        STATE = "state", "State"
        STEP = "step", "Step"
        PROGRESS = "progress", "Progress"
        EMIT = "emit", "Emitted"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events", db_index=False)
    at = models.DateTimeField(db_default=Now())
    kind = models.CharField(max_length=10, choices=Kind.choices)
    old = models.CharField(max_length=10, blank=True)
    new = models.CharField(max_length=10, blank=True)
    fence = models.BigIntegerField(default=0)
    # No constraint in the database: checking it would lock the worker's row under the job's, and whoever takes a dead
    # worker's jobs locks them the other way round.
    worker = models.ForeignKey(
        Worker, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    actor = models.CharField(max_length=150, blank=True, help_text="Who asked for it, if a person did.")
    reason = models.CharField(max_length=60, blank=True, help_text="One word or two: claimed, retry, lease-lost …")
    data = models.JSONField(null=True)

    class Meta:
        indexes = [
            # A job's timeline and its event stream.
            models.Index(fields=["job", "id"], name="event_by_job"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["state", "step", "progress", "emit"]), name="event_kind_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.old}→{self.new} {self.reason}".strip()
