"""Settings from the environment: typed, and clear about what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from astra_site import env

Set = Callable[[str], None]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Keep what the tests declare out of the real list."""
    before = dict(env.REGISTRY)
    yield
    env.REGISTRY.clear()
    env.REGISTRY.update(before)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set the variable that the tests read."""
    return lambda value: monkeypatch.setenv("X_SETTING", value)


def test_an_unset_or_empty_setting_has_its_default(given: Set) -> None:
    assert env.text("X_SETTING", "seven", help="") == "seven"
    given("   ")
    assert env.text("X_SETTING", "seven", help="") == "seven"
    assert env.integer("X_SETTING", 7, minimum=1, maximum=9, help="") == 7


@pytest.mark.parametrize(
    ("word", "meaning"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("FALSE", False)]
)
def test_a_flag_is_said_in_several_words(given: Set, word: str, meaning: bool) -> None:
    given(word)
    assert env.flag("X_SETTING", not meaning, help="") is meaning


def test_a_flag_that_is_neither_yes_nor_no_is_refused(given: Set) -> None:
    given("maybe")
    with pytest.raises(
        ImproperlyConfigured, match="X_SETTING must be one of 1, true, yes, on, 0, false, no, off, not 'maybe'"
    ):
        env.flag("X_SETTING", help="")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("many", "must be a whole number, not 'many'"), ("70000", "must be from 1 to 65535, not 70000")],
)
def test_a_number_that_is_none_or_out_of_range_is_refused(given: Set, value: str, complaint: str) -> None:
    given(value)
    with pytest.raises(ImproperlyConfigured, match=f"X_SETTING {complaint}"):
        env.integer("X_SETTING", 8000, minimum=1, maximum=65535, help="")


def test_a_choice_is_read_in_any_case_and_held_to_the_list(given: Set) -> None:
    given("debug")
    assert env.choice("X_SETTING", "INFO", ("DEBUG", "INFO"), help="") == "DEBUG"
    given("loud")
    with pytest.raises(ImproperlyConfigured, match="X_SETTING must be one of DEBUG, INFO, not 'loud'"):
        env.choice("X_SETTING", "INFO", ("DEBUG", "INFO"), help="")


def test_a_list_may_use_commas_or_blanks(given: Set) -> None:
    given("a.example, b.example c.example,")
    assert env.items("X_SETTING", help="") == ["a.example", "b.example", "c.example"]


def test_a_path_is_made_absolute(given: Set, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given("data dir")
    assert env.path("X_SETTING", Path("/elsewhere"), shown="", help="") == tmp_path / "data dir"
    # So that a child process finds it from any folder.
    assert os.environ["X_SETTING"] == str(tmp_path / "data dir")


def test_a_secret_may_come_from_a_file_and_the_variable_wins(
    given: Set, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("from-file\n")
    monkeypatch.setenv("X_SETTING_FILE", str(file))
    assert env.secret("X_SETTING", help="") == "from-file"
    given("direct")
    assert env.secret("X_SETTING", help="") == "direct"


def test_a_secret_file_that_is_missing_or_empty_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    monkeypatch.setenv("X_SETTING_FILE", str(file))
    with pytest.raises(ImproperlyConfigured, match=r"X_SETTING_FILE names .* cannot be read: No such file"):
        env.secret("X_SETTING", help="")
    file.touch()
    with pytest.raises(ImproperlyConfigured, match="which is empty"):
        env.secret("X_SETTING", help="")


def test_a_url_of_another_kind_is_refused_without_showing_it(given: Set) -> None:
    given("mysql://astra:hunter2@db/astra")
    with pytest.raises(ImproperlyConfigured) as refused:
        env.secret_url("X_SETTING", ("postgres", "postgresql"), shown="", help="")
    assert str(refused.value) == "X_SETTING must start with postgres:// or postgresql://."


def test_every_setting_that_is_read_is_on_the_list() -> None:
    env.flag("X_SETTING", True, help="What it is for.")
    assert env.REGISTRY["X_SETTING"] == env.Setting("X_SETTING", "flag", "1", "What it is for.")
