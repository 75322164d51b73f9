from jobs.models.bulk import BulkOperation
from jobs.models.hold import Hold
from jobs.models.idempotency import IdempotencyKey
from jobs.models.job import Job, JobEvent
from jobs.models.lane_sample import LaneSample
from jobs.models.wait import Wait
from jobs.models.worker import Worker

__all__ = ["BulkOperation", "Hold", "IdempotencyKey", "Job", "JobEvent", "LaneSample", "Wait", "Worker"]
