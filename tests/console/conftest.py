from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from accounts import roles
from tests.support.configs import loaded
from tests.support.people import person

CONFIG = """
agents:
  helper:
    version: 1
    instructions: Help.
    model: demo
  digger:
    version: 3
    instructions: Dig.
    model: demo
endpoints:
  help.v1: {agent: helper, mode: async-queue, description: Answers a question.}
  dig.v1:
    agent: digger
    mode: async-queue
    input:
      anyOf:
        - {type: string, minLength: 1}
        - type: object
          properties:
            question: {type: string, minLength: 1, description: What you want to know.}
            start_url: {type: string, format: uri, pattern: "^$|^https?://"}
            max_pages: {type: integer, minimum: 1, maximum: 20}
          required: [question]
          additionalProperties: false
  nested.v1:
    agent: helper
    mode: async-queue
    input:
      type: object
      properties: {rows: {type: array}}
      required: [rows]
lanes:
  queue: {max_depth: 3}
"""


_loaded = loaded(CONFIG)


@pytest.fixture
def olga(db: None) -> User:
    """An operator."""
    return person("olga", roles.OPERATOR)


@pytest.fixture
def ulla(db: None) -> User:
    """A user."""
    return person("ulla", roles.USER)


@pytest.fixture
def operator(olga: User) -> Client:
    """The operator's browser."""
    return _signed_in(olga)


@pytest.fixture
def user(ulla: User) -> Client:
    """The user's browser."""
    return _signed_in(ulla)


def _signed_in(who: User) -> Client:
    client = Client()
    client.force_login(who)
    return client
