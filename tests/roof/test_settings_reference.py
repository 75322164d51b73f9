"""The reference page of the settings shows every setting as it is read, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings

from astra_site import env
from tests.roof.settings_table import rows

PAGE = Path(settings.BASE_DIR) / "docs" / "reference" / "settings.md"


def test_the_page_shows_every_setting_and_no_other() -> None:
    assert len(env.REGISTRY) > 10
    shown = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `[A-Z_]+`", line)]
    assert shown == rows()


def test_every_setting_says_what_it_is_for() -> None:
    for setting in env.REGISTRY.values():
        assert setting.help.endswith("."), setting.name
