from __future__ import annotations

import asyncio
import importlib
import sys

from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give `jobs` the handler of runs, and tell processes what they have loaded, what to serve and to close."""
        from agents import handler, registry, run_count, services, task_selection
        from agents.chat import escape
        from jobs import bulk, handlers, sweeps
        from jobs.process import hooks

        handlers.register(handler.NAME, handler.RunHandler())
        sweeps.register_sweep("messages to hand over", escape.sweep, every_s=escape.SWEEP_EVERY_S)
        sweeps.register_sweep("ended runs", run_count.sweep, every_s=run_count.SWEEP_EVERY_S)
        bulk.register_selector(task_selection.SELECTOR)
        hooks.capabilities = registry.capabilities
        hooks.before_forks.append(services.preload)
        hooks.on_shutdown.append(services.close)
        hooks.on_web_start.append(_start_chat)
        hooks.on_web_stop.append(_stop_chat)


async def _start_chat() -> None:
    """Serve the chat. What it imports takes longer than a page may."""
    await (await asyncio.to_thread(importlib.import_module, "agents.chat.host")).start()


async def _stop_chat(grace_s: float) -> None:
    if "agents.chat.host" in sys.modules:
        await sys.modules["agents.chat.host"].stop(grace_s)
