from __future__ import annotations

from django.apps import AppConfig


class TestSupportConfig(AppConfig):
    name = "tests.support"
    label = "tests_support"

    def ready(self) -> None:
        from tests.support import deaths, handlers

        handlers.register()
        deaths.arm()
