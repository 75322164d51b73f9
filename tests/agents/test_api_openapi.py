"""The API's description, held against a snapshot: a change of it is a change of the contract.

To accept one: `UPDATE_SNAPSHOTS=1 pytest tests/agents/test_api_openapi.py`, then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

SNAPSHOT = Path(__file__).with_name("openapi.json")
UPDATE = os.environ.get("UPDATE_SNAPSHOTS", "")


@pytest.fixture
def document(db: None) -> dict[str, Any]:
    response = Client().get("/api/v1/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def test_the_description_is_as_it_was(document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if UPDATE:
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert text == SNAPSHOT.read_text(encoding="utf-8")


def test_every_call_of_the_contract_is_described(document: dict[str, Any]) -> None:
    calls = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert calls == {
        ("post", "/api/v1/tasks"),
        ("get", "/api/v1/tasks"),
        ("get", "/api/v1/tasks/{task_id}"),
        ("get", "/api/v1/tasks/{task_id}/steps"),
        ("get", "/api/v1/tasks/{task_id}/events"),
        ("post", "/api/v1/tasks/{task_id}/cancel"),
        ("post", "/api/v1/tasks/{task_id}/redrive"),
        ("get", "/api/v1/agents"),
        ("get", "/api/v1/endpoints"),
        ("get", "/api/v1/metrics/modes"),
        ("post", "/api/v1/conversations"),
        ("get", "/api/v1/conversations"),
        ("get", "/api/v1/conversations/{conversation_id}"),
        ("patch", "/api/v1/conversations/{conversation_id}"),
        ("delete", "/api/v1/conversations/{conversation_id}"),
        ("get", "/api/v1/approvals"),
        ("get", "/api/v1/approvals/{approval_id}"),
        ("post", "/api/v1/approvals/{approval_id}/decision"),
        ("post", "/api/v1/approvals/{approval_id}/claim"),
        ("post", "/api/v1/approvals/{approval_id}/release"),
        ("post", "/api/v1/approvals/{approval_id}/delegate"),
        ("post", "/api/v1/hooks/approvals"),
    }


def test_every_call_says_how_it_refuses(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    assert references(document)
    for reference in references(document):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
