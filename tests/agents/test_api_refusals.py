from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from accounts import tokens
from agents import queries
from audit.trail import SYSTEM
from jobs.models.job import Job
from tests.support.configs import loaded
from tests.support.people import bearer, person

pytestmark = pytest.mark.django_db

TASKS = "/api/v1/tasks"
CHATS = "/api/v1/conversations"
GOOD = json.dumps({"endpoint": "help.v1", "input": "hello"})


_loaded = loaded()


@pytest.fixture
def alice(db: None) -> Client:
    return Client(headers=bearer(person("alice")))


def refused(response: Any, status: int, slug: str) -> dict[str, Any]:
    """Check that a response is a problem, whole, and return it."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"/problems/{slug}", status)
    assert body["title"]
    assert body["detail"]
    assert response["X-Request-ID"]
    assert response["Cache-Control"] == "no-store"
    return body


def post(client: Client, body: Any, **headers: str) -> Any:
    return client.post(TASKS, body, content_type="application/json", headers=headers)


def test_nobody_gets_nothing_and_is_told_how_to_sign_in() -> None:
    for response in (Client().get(TASKS), post(Client(), GOOD), Client().get("/api/v1/agents")):
        refused(response, 401, "unauthenticated")
        assert response["WWW-Authenticate"] == 'Bearer realm="astra"'


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer astra_nope", "Basic YTpi", "astra_nope", "Bearer a b"])
def test_a_wrong_token_is_refused_even_beside_a_session(value: str) -> None:
    client = Client(headers={"Authorization": value})
    client.force_login(person("alice"))
    response = client.get(TASKS)
    refused(response, 401, "unauthenticated")
    assert response["WWW-Authenticate"].startswith('Bearer realm="astra"')


def test_a_revoked_token_is_refused() -> None:
    made, secret = tokens.create(person("alice"), actor=SYSTEM)
    client = Client(headers={"Authorization": f"bearer {secret}"})
    assert client.get(TASKS).status_code == 200
    tokens.revoke(made, actor=SYSTEM)
    response = client.get(TASKS)
    refused(response, 401, "unauthenticated")
    assert response["WWW-Authenticate"] == 'Bearer realm="astra", error="invalid_token"'


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("tasks:read", "get", TASKS),
        ("tasks:read", "get", f"{TASKS}/00000000-0000-0000-0000-000000000000"),
        ("tasks:read", "get", f"{TASKS}/00000000-0000-0000-0000-000000000000/steps"),
        ("tasks:write", "post", TASKS),
        ("tasks:write", "post", f"{TASKS}/00000000-0000-0000-0000-000000000000/cancel"),
        ("tasks:write", "post", f"{TASKS}/00000000-0000-0000-0000-000000000000/redrive"),
        ("agents:read", "get", "/api/v1/agents"),
        ("agents:read", "get", "/api/v1/endpoints"),
        ("chat:read", "get", CHATS),
        ("chat:read", "get", f"{CHATS}/00000000-0000-0000-0000-000000000000"),
        ("chat:write", "post", CHATS),
        ("chat:write", "patch", f"{CHATS}/00000000-0000-0000-0000-000000000000"),
        ("chat:write", "delete", f"{CHATS}/00000000-0000-0000-0000-000000000000"),
    ],
)
def test_every_call_needs_its_own_scope(scope: str, method: str, path: str) -> None:
    others = [other for other in tokens.SCOPES if other != scope]
    client = Client(headers=bearer(person("alice"), *others))
    response = getattr(client, method)(path)
    assert scope in refused(response, 403, "forbidden")["detail"]
    assert f'scope="{scope}"' in response["WWW-Authenticate"]
    with_it = getattr(Client(headers=bearer(person("alice"), scope)), method)(path)
    assert with_it.status_code not in (401, 403)


def test_a_session_reads_without_and_writes_only_with_its_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("alice"))
    assert client.get(TASKS).status_code == 200
    refused(post(client, GOOD), 403, "csrf-failed")
    client.get("/accounts/login/")
    csrf = "a" * 32
    client.cookies["csrftoken"] = csrf
    refused(post(client, GOOD, **{"X-CSRFToken": "b" * 32}), 403, "csrf-failed")
    assert post(client, GOOD, **{"X-CSRFToken": csrf}).status_code == 202


def test_a_token_needs_no_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True, headers=bearer(person("alice")))
    assert post(client, GOOD).status_code == 202


def test_a_user_who_may_not_sign_in_any_more_is_refused() -> None:
    alice = person("alice")
    client = Client()
    client.force_login(alice)
    alice.is_active = False
    alice.save()
    refused(client.get(TASKS), 401, "unauthenticated")


@pytest.mark.parametrize("path", ["", "/", "/nowhere", "/tasks/", "/tasks/no-id", "/tasks/1/steps", "/docs", "/%00"])
def test_an_address_at_which_there_is_nothing_is_a_problem_too(alice: Client, path: str) -> None:
    for client in (alice, Client()):
        refused(client.get(f"/api/v1{path}") if path else client.get("/api/v1/"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("delete", TASKS, {"GET", "POST"}),
        ("put", f"{TASKS}/00000000-0000-0000-0000-000000000000", {"GET"}),
        ("get", f"{TASKS}/00000000-0000-0000-0000-000000000000/cancel", {"POST"}),
        ("post", "/api/v1/agents", {"GET"}),
    ],
)
def test_a_method_that_is_not_there_is_refused_with_those_there_are(
    alice: Client, method: str, path: str, allow: set[str]
) -> None:
    response = getattr(alice, method)(path)
    refused(response, 405, "method-not-allowed")
    assert set(response["Allow"].split(", ")) == allow


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a": }', b"\xff\xfe", b'{"endpoint": "help.v1", "input": NaN}', b"[1, Infinity]", b"{'a': 1}"],
)
def test_a_body_that_is_not_json_is_refused(alice: Client, body: bytes) -> None:
    if body:
        refused(post(alice, body), 400, "bad-json")
    else:
        refused(post(alice, body), 422, "bad-input")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_is_not_declared_as_json_is_refused(alice: Client, content_type: str) -> None:
    refused(alice.post(TASKS, GOOD, content_type=content_type), 415, "unsupported-media-type")


def test_json_may_name_its_charset(alice: Client) -> None:
    assert alice.post(TASKS, GOOD, content_type="application/json; charset=utf-8").status_code == 202


@pytest.mark.parametrize("size", [(1 << 20) + 1, 3 << 20])
def test_a_body_that_is_too_large_is_refused(alice: Client, size: int) -> None:
    body = json.dumps({"endpoint": "help.v1", "input": "x" * size})
    refused(post(alice, body), 413, "payload-too-large")
    assert not Job.objects.exists()


def test_a_body_of_the_full_size_is_taken(alice: Client) -> None:
    frame = len(json.dumps({"endpoint": "help.v1", "input": ""}))
    assert post(alice, json.dumps({"endpoint": "help.v1", "input": "x" * ((1 << 20) - frame)})).status_code == 202


@pytest.mark.parametrize(
    "input",
    [
        '"a\\u0000b"',
        '{"message": "a\\u0000"}',
        '"\\ud83d"',
        '"\\udc00\\ud800"',
        "[" * 70 + "]" * 70,
        "[" * 5000 + "]" * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "1e999",
        "9" * 5000,
    ],
)
def test_json_that_can_not_be_stored_is_refused(alice: Client, input: str) -> None:
    body = refused(post(alice, f'{{"endpoint": "count-more.v1", "input": {{"x": {input}}}}}'), 422, "bad-input")
    assert body["errors"]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        {"status": "sleeping"},
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "many"},
        {"q": "a\0b"},
        {"endpoint": "a\0"},
        {"cursor": "\0"},
        {"q": "x" * 201},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(alice: Client, query: dict[str, str]) -> None:
    body = refused(alice.get(TASKS, query), 422, "bad-input")
    assert body["errors"][0]["loc"][:2] == ["query", next(iter(query))]


def test_too_many_parameters_are_refused(alice: Client) -> None:
    refused(alice.get(f"{TASKS}?" + "&".join(f"p{n}=1" for n in range(2000))), 400, "bad-request")


def test_an_unexpected_error_tells_the_request_id_and_nothing_else(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(queries, "visible_to", explode)
    response = alice.get(TASKS, headers={"X-Request-ID": "my-id"})
    body = refused(response, 500, "server-error")
    assert "my-id" in body["detail"]
    assert "secret" not in response.content.decode()


def test_a_database_that_does_not_answer_is_a_503(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("connection refused by 10.0.0.9")

    monkeypatch.setattr(queries, "visible_to", away)
    response = alice.get(TASKS)
    refused(response, 503, "unavailable")
    assert int(response["Retry-After"]) > 0
    assert "10.0.0.9" not in response.content.decode()


def test_a_long_request_id_does_not_break_the_audit_trail(alice: Client) -> None:
    response = post(alice, GOOD, **{"X-Request-ID": "r" * 128})
    assert (response.status_code, response["X-Request-ID"]) == (202, "r" * 128)


def test_a_caller_behind_a_unix_socket_has_no_address(alice: Client) -> None:
    assert alice.post(TASKS, GOOD, content_type="application/json", REMOTE_ADDR="").status_code == 202
