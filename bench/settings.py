"""Astra's settings, and an app that registers the handlers of the benchmarks, so that worker processes know them."""

from __future__ import annotations

from astra_site.settings import *  # noqa: F403
from astra_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "bench"]
