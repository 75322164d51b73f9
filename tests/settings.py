"""Astra's settings, and an app that registers the tests' handlers, so that worker processes of tests know them too."""

from __future__ import annotations

import os

from astra_site.settings import *  # noqa: F403
from astra_site.settings import DATA_DIR, INSTALLED_APPS, STATIC_ROOT

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support"]

if os.environ.get("TEST_PROCESS") == str(os.getpid()):
    # The web processes that a test starts collect static files. The test's own server serves them as they are.
    STATIC_ROOT = DATA_DIR / "nothing-collected"
