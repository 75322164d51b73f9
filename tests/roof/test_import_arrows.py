"""Imports run one way: approvals → agents → jobs → accounts → audit. The roof may import all, and none the roof."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUND = {"accounts", "audit"}
MAY_IMPORT = {
    "accounts": {"audit"},
    "audit": set[str](),
    "jobs": GROUND,
    "agents": GROUND | {"jobs"},
    "approvals": GROUND | {"jobs", "agents"},
    "astra_site": GROUND | {"jobs", "agents", "approvals"},
}


def imports(source: str, module: str = "") -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of everything that a module imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and _names_a_module(node):
            assert isinstance(node.args[0], ast.Constant)
            yield node.lineno, str(node.args[0].value)


def _names_a_module(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("import_module", "__import__") and bool(call.args) and isinstance(call.args[0], ast.Constant)


def modules(app: str) -> list[Path]:
    return sorted((ROOT / app).rglob("*.py"))


def dotted(file: Path) -> str:
    """Return the module's name; a package's ends in ``__init__``, so that relative imports count right."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("app", [app for app in MAY_IMPORT if (ROOT / app).is_dir()])
def test_an_app_imports_only_those_below_it(app: str) -> None:
    files = modules(app)
    assert files
    ours = MAY_IMPORT.keys() - MAY_IMPORT[app] - {app}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imports(file.read_text(), dotted(file))
        if name.split(".")[0] in ours
    ]
    assert wrong == []


def test_the_runtime_knows_no_django() -> None:
    files = modules("agents/runtime")
    assert files
    foreign = {"django", "ninja", "channels", "django_rq", "rq", "accounts", "audit", "jobs"}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imports(file.read_text(), dotted(file))
        if name.split(".")[0] in foreign or (name.startswith("agents.") and not name.startswith("agents.runtime"))
    ]
    assert wrong == []


def test_only_the_model_port_touches_pydantic_ai() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for app in MAY_IMPORT
        for file in modules(app)
        if not file.is_relative_to(ROOT / "agents" / "llm")
        for line, name in imports(file.read_text(), dotted(file))
        if name.split(".")[0] in ("pydantic_ai", "pydantic_evals", "pydantic_graph")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import agents.llm", "agents.llm"),
        ("def f():\n    from agents import sse", "agents.sse"),
        ("from ..agents.llm import port", "agents.llm.port"),
        ("from .. import agents", "agents"),
        ("import importlib\nimportlib.import_module('agents')", "agents"),
    ],
)
def test_no_way_to_import_is_overlooked(source: str, found: str) -> None:
    assert found in {name for _, name in imports(source, "jobs.worker")}
