"""Configurations for tests: a small one, loaded, and ways to write others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import registry
from agents.registry import LoadReport

BASE = """
agents:
  helper:
    version: 1
    instructions: Help.
    model: demo
endpoints:
  help.v1: {agent: helper, mode: async-queue}
  count.v1:
    agent: helper
    mode: async-queue
    input:
      type: object
      properties: {things: {type: integer}, names: {type: array, items: {type: string}}}
      additionalProperties: false
    request_size: {max: 20, of: things}
  count-more.v1:
    agent: helper
    mode: async-queue
    input: {type: object}
    request_size: {max: 500, of: things}
"""


def write(text: str, folder: Path | None = None) -> Path:
    """Write a configuration file, by default into the folder that goes when the tests end, and return its path."""
    path = Path(folder or tempfile.mkdtemp(dir=os.environ["ASTRA_TEST_FOLDER"])) / "astra.yml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(text: str = BASE) -> Any:
    """Return a fixture that loads a configuration for each test of a module, and lets go of it."""

    @pytest.fixture(autouse=True)
    def _loaded(db: None) -> Iterator[None]:
        load(text)
        yield
        registry.forget()

    return _loaded


def load(text: str = BASE, folder: Path | None = None, *, dry_run: bool = False) -> LoadReport:
    """Load a configuration written as text."""
    return registry.load(write(text, folder), dry_run=dry_run)


#: One agent, asked by the queue and in the chat.
HELP_AND_TALK = """
agents:
  helper: {version: 1, instructions: Help., model: demo}
endpoints:
  help.v1: {agent: helper, mode: async-queue}
  talk.v1: {agent: helper, mode: streaming-sync}
"""
