from __future__ import annotations

import importlib
import os

from django.apps import AppConfig

#: The environment variable that says what a process has loaded, words set apart by blanks.
CAPABILITIES = "TEST_CAPABILITIES"
#: The environment variable that gives a process other constants, like ``agents.chat.socket:RECHECK_S=0.2``.
CONSTANTS = "TEST_CONSTANTS"


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
        for setting in os.environ.get(CONSTANTS, "").split():
            name, _, value = setting.partition("=")
            module, _, constant = name.partition(":")
            owner = importlib.import_module(module)
            setattr(owner, constant, type(getattr(owner, constant))(float(value)))
