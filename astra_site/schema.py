"""Whether the database has every migration, found without importing them."""

from __future__ import annotations

from pathlib import Path

from django.apps import apps
from django.db import ProgrammingError, connection, transaction

# Two machines that start at once must not migrate at once. Any number will do; it is Astra's alone.
ADVISORY_LOCK = 0x4153545241


def missing() -> list[str]:
    """Return the migrations on disk that the database has not, as ``app.name``."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = {f"{app}.{name}" for app, name in cursor.fetchall()}
    except ProgrammingError:
        applied = set()
    return [name for name in _on_disk() if name not in applied]


def migrate() -> bool:
    """Bring the database up to date, alone among all processes; tell whether there was something to do."""
    from django.core.management import call_command

    if not missing():
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        try:
            call_command("migrate", interactive=False, verbosity=0)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
    return True


def _on_disk() -> list[str]:
    found = []
    for app in apps.get_app_configs():
        folder = Path(app.path) / "migrations"
        if folder.is_dir():
            found += [f"{app.label}.{file.stem}" for file in sorted(folder.glob("[!_]*.py"))]
    return found
