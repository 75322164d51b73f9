from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from approvals.models import Approval


class ApprovalsConfig(AppConfig):
    name = "approvals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Ask people when a run parks for them, drop what a run no longer waits for, and watch the deadlines."""
        from django.db.models.signals import pre_delete

        from agents import parked
        from approvals import asking, deadlines, hook, links, notices, of_runs, settled, told
        from approvals.models import Approval
        from jobs import handlers, sweeps

        parked.hooks.on_parked = asking.ask
        parked.hooks.on_left = asking.supersede
        parked.hooks.settled = settled.of_run
        parked.hooks.on_told = settled.supersede
        parked.hooks.pending = of_runs.pending
        parked.hooks.requests = of_runs.requests
        parked.hooks.links = of_runs.links
        parked.hooks.forget = of_runs.forget
        sweeps.register_sweep("approval deadlines", deadlines.sweep, every_s=deadlines.SWEEP_EVERY_S)
        sweeps.register_sweep("effects that were told of", told.sweep, every_s=told.SWEEP_EVERY_S)
        handlers.register_function(notices.HANDLER, notices.deliver, retry=notices.RETRY)
        sweeps.register_sweep("people to tell", notices.sweep, every_s=notices.SWEEP_EVERY_S)
        sweeps.register_sweep("old webhooks", hook.sweep, every_s=hook.SWEEP_EVERY_S)
        sweeps.register_sweep("old links", links.sweep, every_s=links.SWEEP_EVERY_S)
        pre_delete.connect(_on_delete, sender=Approval, dispatch_uid="approvals.deleted")


def _on_delete(instance: Approval, **kwargs: object) -> None:
    from approvals import asking

    asking.note_deleted(instance)
