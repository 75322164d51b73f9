from __future__ import annotations

import os

from django.apps import AppConfig

#: The environment variable that says what a process has loaded, words set apart by blanks.
CAPABILITIES = "TEST_CAPABILITIES"


class TestSupportConfig(AppConfig):
    name = "tests.support"
    label = "tests_support"

    def ready(self) -> None:
        from jobs.process import hooks
        from tests.support import deaths, handlers

        handlers.register()
        deaths.arm()
        if CAPABILITIES in os.environ:
            known = os.environ[CAPABILITIES].split()
            hooks.capabilities = lambda: known
