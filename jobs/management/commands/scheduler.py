"""`manage.py scheduler`: the reconciler and every sweep."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs.reconcile import Reconciler


class Command(BaseCommand):
    help = "Put right what crashes and outages left, and do what is due. Run one or several; they share the work."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        # In a thread: a handler that sets an event which its own thread waits for may wait for itself.
        reconciler = threading.Thread(target=Reconciler().run, args=(stop,), name="reconciler")
        reconciler.start()
        reconciler.join()
        if not stop.is_set():
            raise CommandError("The reconciler ended.")
