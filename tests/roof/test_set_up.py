"""``make`` on a bare machine: what it says when it cannot go on, and that it goes on in any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a blank in its path, and nothing installed."""
    folder = tmp_path / "a check out"
    folder.mkdir()
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(checkout: Path, tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with nothing on the path but a shell, a few tools, and what the test put into ``tools``."""
    for name in ("sh", "cmp", "cat", "make", "echo", "cp"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    bare = {"PATH": str(tools), "HOME": str(tools)}
    command = [str(tools / "make"), *arguments]
    return subprocess.run(command, cwd=checkout, env=bare, capture_output=True, text=True, check=False)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The only folder on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
    path.chmod(0o755)


def test_an_old_python_is_refused_in_a_sentence(checkout: Path, tools: Path) -> None:
    write_program(tools / "python3", 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')
    done = make(checkout, tools, "run")
    assert done.returncode != 0
    assert "Astra needs Python 3.11 or newer, and this machine has Python 3.9.2." in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_at_all_is_refused_in_a_sentence(checkout: Path, tools: Path) -> None:
    done = make(checkout, tools, "run")
    assert "this machine has no Python 3 at all" in done.stderr


def test_a_new_enough_python_of_another_name_is_found(checkout: Path, tools: Path) -> None:
    write_program(tools / "python3", "exit 1")
    write_program(tools / "python3.12", 'case "$2" in venv) echo "asked for $4" >&2; exit 1;; esac')
    done = make(checkout, tools, "run")
    assert "asked for .venv" in done.stderr
    assert "install the package python3-venv" in done.stderr


def test_nothing_is_installed_again_for_the_same_lock(checkout: Path, tools: Path) -> None:
    venv = checkout / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    shutil.copy(checkout / "requirements.lock", checkout / ".venv")
    command = ["sh", "scripts/venv"]
    bare = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=checkout, env=bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_changed_lock_is_installed(checkout: Path, tools: Path) -> None:
    venv = checkout / ".venv" / "bin"
    venv.mkdir(parents=True)
    write_program(venv / "python", 'echo "$@" >> "$0.log"')
    (tools / "python3").symlink_to(sys.executable)
    (checkout / ".venv" / "requirements.lock").write_text("# older\n")
    done = make(checkout, tools, "run")
    assert done.returncode == 0, done.stderr
    log = (venv / "python.log").read_text()
    assert "pip install" in log
    assert "--require-hashes" in log
    assert log.rstrip().endswith("manage.py up")
    assert (checkout / ".venv" / "requirements.lock").read_text() == (ROOT / "requirements.lock").read_text()
