from __future__ import annotations

from django.apps import AppConfig


class ApprovalsConfig(AppConfig):
    name = "approvals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Ask people when a run parks for them, drop what a run no longer waits for, and watch the deadlines."""
        from agents import parked
        from approvals import asking, deadlines, hook, notices, settled
        from jobs import handlers, sweeps

        parked.hooks.on_parked = asking.ask
        parked.hooks.on_left = asking.supersede
        parked.hooks.settled = settled.of_run
        parked.hooks.on_told = settled.supersede
        sweeps.register_sweep("approval deadlines", deadlines.sweep, every_s=deadlines.SWEEP_EVERY_S)
        handlers.register_function(notices.HANDLER, notices.deliver, retry=notices.RETRY)
        sweeps.register_sweep("people to tell", notices.sweep, every_s=notices.SWEEP_EVERY_S)
        sweeps.register_sweep("old webhooks", hook.sweep, every_s=hook.SWEEP_EVERY_S)
