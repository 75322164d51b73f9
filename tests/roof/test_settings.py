"""The settings as a process sees them: each case in a process of its own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = """
import json, sys
from django.conf import settings
print(json.dumps({name: getattr(settings, name) for name in sys.argv[1:]}, default=str))
"""
FLEET = {"DATABASE_URL": "postgresql://astra:secret@db.example:5433/astra?sslmode=require", "REDIS_URL": "redis://r/1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=bare, capture_output=True, text=True, check=False)


def show(environment: dict[str, str], *names: str) -> dict[str, Any]:
    done = run({"DJANGO_SETTINGS_MODULE": "astra_site.settings"} | environment, "-c", SHOW, *names)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_embedded_site_makes_its_own_key_once_for_its_owner_alone(tmp_path: Path) -> None:
    environment = {"ASTRA_DATA_DIR": str(tmp_path / "new" / "var")}
    first = show(environment, "SECRET_KEY")["SECRET_KEY"]
    assert len(first) > 50
    assert show(environment, "SECRET_KEY")["SECRET_KEY"] == first
    kept = tmp_path / "new" / "var" / "secret_key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert [path.name for path in kept.parent.iterdir()] == ["secret_key"]


def test_a_fleet_without_a_key_does_not_start(tmp_path: Path) -> None:
    done = run(FLEET | {"ASTRA_DATA_DIR": str(tmp_path)}, "manage.py", "check")
    assert done.returncode == 1
    assert done.stderr.startswith("astra: ASTRA_SECRET_KEY is not set.")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_fleet_reads_its_database_from_the_url(tmp_path: Path) -> None:
    found = show(FLEET | {"ASTRA_SECRET_KEY": "k", "ASTRA_DATA_DIR": str(tmp_path)}, "DATABASES", "EMBEDDED_DATABASE")
    database = found["DATABASES"]["default"]
    assert (database["HOST"], database["PORT"], database["USER"]) == ("db.example", "5433", "astra")
    assert (database["PASSWORD"], database["NAME"]) == ("secret", "astra")
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["CONN_MAX_AGE"] == 0
    assert found["EMBEDDED_DATABASE"] is False


def test_one_server_may_be_embedded_and_the_other_given(tmp_path: Path) -> None:
    names = ("EMBEDDED_DATABASE", "EMBEDDED_REDIS", "REDIS_URL", "DATABASE_URL")
    environment = {"REDIS_URL": "redis://r/1", "ASTRA_DATA_DIR": str(tmp_path)}
    found = show(environment, *names)
    assert (found["EMBEDDED_DATABASE"], found["EMBEDDED_REDIS"], found["REDIS_URL"]) == (True, False, "redis://r/1")
    assert found["DATABASE_URL"].startswith("postgresql://astra@/astra?host=%2F")


@pytest.mark.parametrize(("url", "secure"), [("https://astra.example", True), ("http://astra.example", False)])
def test_cookies_are_secure_where_the_site_is_https(tmp_path: Path, url: str, secure: bool) -> None:
    names = ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS")
    found = show({"ASTRA_PUBLIC_URL": url, "ASTRA_DATA_DIR": str(tmp_path)}, *names)
    assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is secure
    assert "astra.example" in found["ALLOWED_HOSTS"]
    assert found["CSRF_TRUSTED_ORIGINS"] == [url]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ASTRA_PORT", "http", "astra: ASTRA_PORT must be a whole number, not 'http'."),
        (
            "ASTRA_DEBUG",
            "perhaps",
            "astra: ASTRA_DEBUG must be one of 1, true, yes, on, 0, false, no, off, not 'perhaps'.",
        ),
        ("DATABASE_URL", "postgresql://db.example", "astra: DATABASE_URL names no database: it ends like /name."),
        (
            "ASTRA_TIME_ZONE",
            "Mars/Utopia",
            "astra: ASTRA_TIME_ZONE must name a time zone, like Europe/Madrid, not 'Mars",
        ),
        ("ASTRA_TIME_ZONE", "../etc/passwd", "astra: ASTRA_TIME_ZONE must name a time zone"),
        ("ASTRA_DATA_DIR", "/proc/astra", "astra: The data directory '/proc/astra' cannot be used: "),
    ],
)
def test_a_bad_setting_ends_in_one_sentence(tmp_path: Path, name: str, value: str, sentence: str) -> None:
    done = run({"ASTRA_DATA_DIR": str(tmp_path), name: value}, "manage.py", "check")
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_a_database_that_does_not_answer_ends_a_command_in_one_sentence(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://astra@/astra?host=/nowhere", "ASTRA_DATA_DIR": str(tmp_path)}
    done = run(given, "manage.py", "create_token", "operator")
    assert done.returncode == 1
    assert done.stderr.startswith("astra: The database of DATABASE_URL does not answer: ")
    assert done.stderr.count("\n") == 1


def test_starting_a_process_imports_no_model_library(tmp_path: Path) -> None:
    code = """
import sys, django
django.setup()
import astra_site.asgi, astra_site.urls
print([name for name in sys.modules if name.split(".")[0] in ("pydantic_ai", "openai", "anthropic", "pyarrow")])
"""
    given = {"DJANGO_SETTINGS_MODULE": "astra_site.settings", "ASTRA_DATA_DIR": str(tmp_path)}
    done = run(given, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
