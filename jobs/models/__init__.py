from jobs.models.hold import Hold
from jobs.models.idempotency import IdempotencyKey
from jobs.models.job import Job, JobEvent
from jobs.models.wait import Wait
from jobs.models.worker import Worker

__all__ = ["Hold", "IdempotencyKey", "Job", "JobEvent", "Wait", "Worker"]
