"""What every run of a process shares."""

from __future__ import annotations

import pytest

from agents import services
from agents.tools import catalog, registry
from agents.tools.registry import tool


def test_a_tool_that_is_registered_later_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tools", dict(catalog.load()))
    box = services.toolbox({})

    @tool
    def comes_later() -> str:
        """Come later."""
        return "here"

    assert box.get("comes_later").fn is comes_later.fn
