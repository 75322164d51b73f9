"""Find the site's secret key, or make one on a machine of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def find_or_make(given: str, data_dir: Path, *, may_make: bool) -> str:
    """Return ``given``, else the key kept in ``data_dir``, else a new one written there for its owner alone.

    A fleet must be given its key, for its machines have to share it: then ``may_make`` is false and a missing key
    raises ``ImproperlyConfigured``.
    """
    if given:
        return given
    if not may_make:
        raise ImproperlyConfigured(
            "ASTRA_SECRET_KEY is not set. Astra makes its own only for an embedded database; with DATABASE_URL and "
            "REDIS_URL set, give every process the same one."
        )
    path = data_dir / "secret_key"
    try:
        return _read(path) or _make(path)
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data directory {str(data_dir)!r} cannot be used: {error.strerror}. "
            "Set ASTRA_DATA_DIR to a folder that you may write to."
        ) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _make(path: Path) -> str:
    """Write the key to a file of its own and link it into place, so that two first starts agree on one key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".secret_key.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(48) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return _read(path)
