"""Astra once more, with whole runs of an agent in place of bare jobs: validated, journaled, audited."""

from __future__ import annotations

import time
from typing import Any

from bench.contenders import Astra
from bench.stage import Stage


class AstraRuns(Astra):
    """Runs of `bench.v1`: a loop of one turn, whose model is the model server when there is one."""

    def __init__(self, stage: Stage, slots: int, name: str = "Astra, a run of an agent", *, url: str = "") -> None:
        super().__init__(stage, slots, name)
        self._env = {"ASTRA_MODEL": "openai:bench", "OPENAI_BASE_URL": url} if url else {}
        self._user: Any = None

    def submit(self, task: str, *args: str) -> float:
        """Start a run; the seconds it took."""
        from agents.invoke import invoke
        from audit.trail import Actor

        if self._user is None:
            self._user = self._set_up()
        began = time.perf_counter()
        invoke("bench.v1", "How long is a second?", user=self._user, actor=Actor(self._user))
        return time.perf_counter() - began

    def _set_up(self) -> Any:
        from django.conf import settings
        from django.contrib.auth import get_user_model

        from agents import registry

        registry.load(settings.ASTRA_CONFIG)
        return get_user_model().objects.get_or_create(username="bench")[0]
