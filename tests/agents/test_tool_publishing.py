"""The tool `publish_post`: whole files, each under its own slug, never written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.runtime.ports import ToolContext
from agents.runtime.types import ToolCall
from agents.tools import catalog
from agents.tools.publishing import publish_post
from agents.tools.registry import Refused
from agents.tools.toolbox import LocalToolBox


def by(key: str = "a" * 64) -> ToolContext:
    return ToolContext(run_id="r", user_id=None, agent="publisher", step_key="s", idempotency_key=key, approval_id="p")


@pytest.fixture(autouse=True)
def published(tmp_path: Path, settings: Any) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path / "published"


def test_a_post_is_a_markdown_file_with_front_matter(published: Path) -> None:
    assert publish_post("on-bread", 'On "bread"\nand: more', "Flour.", by())["file"] == "published/on-bread.md"
    head, _, body = (published / "on-bread.md").read_text().removeprefix("---\n").partition("\n---\n")
    assert 'title: "On \\"bread\\" and: more"' in head.splitlines()
    assert "approval: p" in head.splitlines()
    assert body == '\n# On "bread" and: more\n\nFlour.\n'
    assert [file.name for file in published.iterdir()] == ["on-bread.md"], "no draft is left"


def test_the_same_call_again_changes_nothing_and_another_is_refused(published: Path) -> None:
    publish_post("on-bread", "On bread", "Flour.", by())
    before = (published / "on-bread.md").read_text()
    assert "before" in publish_post("on-bread", "On bread", "Flour.", by())["note"]
    with pytest.raises(Refused, match="There is a post on-bread already"):
        publish_post("on-bread", "On bread", "Water.", by("b" * 64))
    assert (published / "on-bread.md").read_text() == before


def test_a_key_in_the_text_of_a_post_is_not_taken_for_its_own(published: Path) -> None:
    published.mkdir()
    (published / "on-bread.md").write_text(f"---\ntitle: x\n---\n\nkey: {'a' * 64}\n")
    with pytest.raises(Refused, match="already"):
        publish_post("on-bread", "On bread", "Flour.", by())


def test_a_link_in_the_folder_is_not_followed(published: Path, tmp_path: Path) -> None:
    published.mkdir()
    outside = tmp_path / "outside.md"
    (published / "on-bread.md").symlink_to(outside)
    with pytest.raises(Refused, match="already"):
        publish_post("on-bread", "On bread", "Flour.", by())
    assert not outside.exists()


@pytest.mark.parametrize("slug", ["../evil", "a/b", "", "A", "a--b", "-a", "a.md", "a\n", "ä"])
async def test_a_slug_leads_nowhere_else(slug: str, published: Path) -> None:
    call = ToolCall(id="1", tool="publish_post", arguments={"slug": slug, "title": "T", "body_markdown": "B"})
    result = await LocalToolBox(catalog.load()).call(call, by())
    assert not result.ok
    assert result.error in ("bad-arguments", "bad-slug")
    assert not published.exists() or list(published.iterdir()) == []
