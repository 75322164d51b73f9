"""Which pages may open a WebSocket: those of the site, as the host, the scheme and the port say."""

from __future__ import annotations

from typing import Any, cast

import pytest
from asgiref.typing import WebSocketScope
from pytest_django import Settings

from astra_site import origins


def scope_of(**headers: str) -> WebSocketScope:
    pairs = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return cast(WebSocketScope, {"type": "websocket", "headers": pairs})


@pytest.fixture(autouse=True)
def site(settings: Settings) -> Settings:
    settings.ALLOWED_HOSTS = ["astra.example", "[::1]"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://front.example", "https://*.wild.example"]
    settings.SECURE_PROXY_SSL_HEADER = None
    return settings


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("astra.example", "http://astra.example"),
        ("astra.example", "http://astra.example:80"),
        ("astra.example:80", "http://astra.example"),
        ("astra.example:8000", "http://astra.example:8000"),
        ("Astra.Example:8000", "http://astra.example:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("astra.example", "https://front.example"),
        ("astra.example", "https://front.example:443"),
    ],
)
def test_the_sites_own_pages_and_trusted_ones_get_in(host: str, origin: str) -> None:
    assert origins.admit(scope_of(Host=host, Origin=origin)) == ""


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "*",
        "null",
        "astra.example",
        "http://",
        "http://astra.example:8001",
        "https://astra.example",
        "ws://astra.example",
        "http://astra.example.evil.example",
        "http://astra.example@evil.example",
        "http://evil.example#astra.example",
        "http://astra.example/",
        "http://astra.example:port",
        "http://astra.example,http://evil.example",
        "http://front.example",
        "https://some.wild.example",
        "https://*.wild.example",
    ],
)
def test_any_other_origin_is_refused(origin: str) -> None:
    assert origins.admit(scope_of(Host="astra.example", Origin=origin)) != ""


def test_a_star_among_the_hosts_lets_no_origin_in(site: Settings) -> None:
    site.ALLOWED_HOSTS = ["*"]
    site.CSRF_TRUSTED_ORIGINS = ["*", "https://*"]
    assert origins.admit(scope_of(Host="other.example", Origin="http://evil.example")) != ""
    assert origins.admit(scope_of(Host="other.example", Origin="https://*")) != ""
    assert origins.admit(scope_of(Host="other.example", Origin="http://other.example")) == ""


def test_behind_a_proxy_the_scheme_is_the_one_it_tells(site: Settings) -> None:
    told: dict[str, Any] = {"Host": "astra.example", "X_Forwarded_Proto": "https"}
    assert origins.admit(scope_of(**told, Origin="https://astra.example")) != ""
    site.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert origins.admit(scope_of(**told, Origin="https://astra.example")) == ""
    assert origins.admit(scope_of(**told, Origin="http://astra.example")) != ""


def test_with_an_authorization_header_only_the_host_counts_and_cookies_do_not() -> None:
    scope = scope_of(Host="astra.example", Authorization="Bearer t", Cookie="sessionid=s", Origin="http://evil.example")
    assert origins.admit(scope) == ""
    assert [name for name, _ in scope["headers"]] == [b"host", b"authorization", b"origin"]
    assert origins.admit(scope_of(Host="evil.example", Authorization="Bearer t")) != ""
    assert origins.admit(scope_of(Authorization="Bearer t")) != ""
