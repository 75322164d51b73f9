"""Astra's settings, and an app that registers the tests' handlers, so that worker processes of tests know them too."""

from __future__ import annotations

from astra_site.settings import *  # noqa: F403
from astra_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support"]
