"""The reference names every command, option, key, call and scope, so that none is added in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class

from accounts import tokens
from agents.config import loading, sections
from agents.config.sections import Section
from astra_site.api import PREFIX, api
from jobs.states import State

DOCS = Path(settings.BASE_DIR) / "docs" / "reference"
COMMANDS = sorted(name for name, app in get_commands().items() if app in ("astra_site", "jobs", "agents"))
USUAL = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback", "--no-color"}
USUAL |= {"--force-color", "--skip-checks"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_reference_with_all_its_options(name: str) -> None:
    text = page("commands.md")
    assert f"`{name}" in text
    parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in USUAL:
                assert option in text, option


def test_there_are_commands() -> None:
    assert {"up", "worker", "scheduler", "load_agents", "create_token", "submit", "task", "doctor"} <= set(COMMANDS)


def all_sections(base: type[Section] = Section) -> set[type[Section]]:
    return {kind for child in base.__subclasses__() for kind in {child, *all_sections(child)}}


def test_every_key_of_astra_yml_is_in_the_reference() -> None:
    text = page("astra-yml.md")
    words = set(re.findall(r"[a-z_]+", text))
    assert sections.Agent in all_sections()
    for section in all_sections():
        assert set(section.model_fields) | section.later <= words, section
    assert words >= loading.KNOWN | loading.LATER


def test_every_call_every_scope_and_every_status_is_in_the_reference() -> None:
    text = page("api.md")
    for path in api.get_openapi_schema(path_prefix=f"{PREFIX}/")["paths"]:
        assert path in text
    for word in (*tokens.SCOPES, *State.values):
        assert f"`{word}`" in text
