"""The locks: every package with its hashes, and no word about where they come from or who resolved them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")


def packages(lock: str) -> dict[str, str]:
    """Return the text of each package's entry by its name."""
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    return {re.split(r"[=\[ ]", entry)[0]: entry for entry in entries}


def wanted(group: str | None) -> set[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["dependency-groups"][group] if group else project["project"]["dependencies"]
    return {re.split(r"[<>=\[~!; ]", requirement)[0].lower().replace("_", "-") for requirement in asked}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_hashes(lock: str) -> None:
    found = packages(lock)
    assert len(found) > 50
    assert [name for name, entry in found.items() if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_address_and_no_path_is_in_it(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|@|index|(^|\s)/", text)


def test_all_that_the_project_asks_for_is_locked() -> None:
    assert wanted(None) <= packages("requirements.lock").keys()
    assert wanted(None) | wanted("dev") <= packages("requirements-dev.lock").keys()


def test_development_uses_the_versions_that_run() -> None:
    running, developing = packages("requirements.lock"), packages("requirements-dev.lock")
    version = re.compile(r"==(\S+)")
    for name, entry in running.items():
        assert version.findall(entry) == version.findall(developing[name])
