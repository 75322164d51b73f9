"""The page of one request, in each of its states."""

from __future__ import annotations

import pytest
from django.test import Client

from accounts import roles
from tests.console.conftest import CONFIG
from tests.support.approvals import approval
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db

_config = loaded(CONFIG)


def browser(name: str = "rita", *names: str) -> Client:
    client = Client()
    client.force_login(person(name, *(names or (roles.REVIEWER,))))
    return client


def test_it_shows() -> None:
    found = approval()
    answer = browser().get(f"/approvals/{found.pk}/")
    assert answer.status_code == 200
    print(answer.content.decode()[:300])
