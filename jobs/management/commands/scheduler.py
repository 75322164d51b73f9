"""`manage.py scheduler`: the reconciler, every sweep, and what operators asked for of many jobs."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs.bulk_worker import BulkWorker
from jobs.reconcile import Reconciler

#: What is left of the change of one job when the scheduler is to stop: it is rolled back after this. Seconds.
GRACE_S = 5.0


class Command(BaseCommand):
    help = "Put right what crashes and outages left, and do what is due. Run one or several; they share the work."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        # In a thread: a handler that sets an event which its own thread waits for may wait for itself.
        reconciler = threading.Thread(target=Reconciler().run, args=(stop,), name="reconciler")
        # It must not hold the reconciler up, nor wait for a free worker.
        bulk = threading.Thread(target=BulkWorker().run, args=(stop,), name="bulk", daemon=True)
        reconciler.start()
        bulk.start()
        reconciler.join()
        bulk.join(GRACE_S if stop.is_set() else 0)
        if not stop.is_set():
            raise CommandError("The reconciler ended.")
