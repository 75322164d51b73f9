"""One PostgreSQL and one Valkey for the whole run, in a temporary folder; each xdist worker has a database in both.

No developer's setting, key or data directory reaches a test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import django
import pytest
import redis
from django.conf import settings as django_settings

from astra_site import embedded

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "ASTRA_TEST_FOLDER"
LEAKS = ("ASTRA_", "OPENAI_", "ANTHROPIC_", "DATABASE_URL", "REDIS_URL")
GUARDIAN = pytest.StashKey[subprocess.Popen[bytes]]()
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def _hermetic() -> Path:
    """Empty the environment of Astra's settings and point it at this worker's databases. Returns the data directory."""
    if django_settings.configured:
        raise pytest.UsageError("Unset DJANGO_SETTINGS_MODULE: the tests choose their own databases.")
    folder = os.environ.get(FOLDER) or tempfile.mkdtemp(prefix="astra-tests-")
    for name in [name for name in os.environ if name.startswith(LEAKS)]:
        del os.environ[name]
    data_dir = Path(folder)
    number = int(WORKER.removeprefix("gw")) + 1 if WORKER.startswith("gw") else 0
    os.environ |= {
        FOLDER: folder,
        "ASTRA_DATA_DIR": str(data_dir / WORKER),
        "ASTRA_SECRET_KEY": "only-for-tests",
        "ASTRA_MODEL": "demo",
        "DATABASE_URL": embedded.database_url(data_dir, f"test_{WORKER}"),
        "REDIS_URL": embedded.redis_url(data_dir, number),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_PROCESS": str(os.getpid()),
    }
    return data_dir


DATA_DIR = _hermetic()
django.setup()  # pytest-django looked before the settings were chosen


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Keep our choice of settings from xdist's workers, which would set Django up before they chose a database."""
    del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to start the servers, in a process that stops them even if this one is killed."""
    if WORKER == "main" and not session.config.option.collectonly:
        session.config.stash[GUARDIAN] = subprocess.Popen(
            [sys.executable, "-m", "tests.roof.guardian", str(DATA_DIR)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            # Ctrl-C is for us.
            start_new_session=True,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test logged fit to be sent from an xdist worker, which takes no half of a surrogate pair."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let the guardian go: it stops the servers and removes the temporary folder."""
    if guardian := config.stash.get(GUARDIAN, None):
        guardian.communicate()
    elif WORKER == "main":
        shutil.rmtree(DATA_DIR, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[embedded.Servers]:
    """PostgreSQL and Valkey, shared by all xdist workers. They skip fsync: nothing here must outlive a power cut."""
    with embedded.servers(DATA_DIR, durable=False) as held:
        yield held


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers: embedded.Servers) -> None:
    """Test in the very database that ``DATABASE_URL`` names, so that other processes and pools find it too."""
    from django.db import connections

    database = connections["default"].settings_dict
    database["TEST"]["NAME"] = database["NAME"]


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Keep the test database: it goes with the temporary folder."""
    return True


@pytest.fixture(scope="session")
def _valkey_connection(servers: embedded.Servers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        yield client


@pytest.fixture(autouse=True)
def valkey(_valkey_connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """A client of this worker's Valkey database, which is empty when a test begins, and no outage is remembered."""
    monkeypatch.setattr("jobs.wakeups._silent_until", 0.0)
    _valkey_connection.flushdb()
    return _valkey_connection
