"""The peers' own virtual environment, made from their lock when it is first needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements-peers.lock"


def ensure(folder: Path) -> Path:
    """Return the environment's Python; make the environment first unless it was made from this very lock."""
    python = folder / "bin" / "python"
    mark = folder / LOCK.name
    if mark.exists() and mark.read_bytes() == LOCK.read_bytes():
        return python
    print("Installing RQ and Celery into an environment of their own; this is done once.", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)], check=True)
    shutil.copy(LOCK, mark)
    return python
