"""The demo: one user of each role, a shop with some orders, and two tasks that wait for a reviewer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import transaction

from accounts import roles
from agents import registry
from agents.invoke import invoke
from agents.llm import choose
from agents.models import AgentVersion, ShopOrder
from audit.trail import SYSTEM

USERS = (roles.OPERATOR, roles.REVIEWER, roles.USER, roles.ADMIN)
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
#: Number, customer, what was bought, USD.
ORDERS = (
    ("A-1001", "Ann Olsen", "A burr grinder", "180.00"),
    ("A-1002", "Bram de Wit", "An electric bicycle", "1890.00"),
    ("A-1003", "Carla Ruiz", "Two kilograms of coffee", "49.00"),
    ("A-1004", "Dov Katz", "A kettle", "89.50"),
    ("A-1005", "Esi Mensah", "A standing desk", "640.00"),
)
#: What waits for a reviewer when a newcomer first looks.
TASKS: Mapping[str, Any] = {
    "refund.v1": {"message": "Refund order A-1005, 240 USD, the desk top came scratched."},
    "publish.v1": {
        "topic": "making coffee at home",
        "posts": 10,
        "audience": "people who own a kettle and little else",
    },
}


def is_due() -> bool:
    """Whether nobody has an account yet."""
    return not User.objects.exists()


def exists() -> bool:
    """Whether there is still a demo user."""
    return User.objects.filter(username__in=USERS).exists()


def create() -> dict[str, str]:
    """Make the demo users that are missing, each in the group of its name; return their passwords."""
    with transaction.atomic():
        return {name: _create_user(name) for name in USERS if not User.objects.filter(username=name).exists()}


def stock_shop() -> None:
    """Put the demo's orders into the shop, if nobody has ever sold anything."""
    if not ShopOrder.objects.exists():
        orders = [
            ShopOrder(number=number, customer=customer, item=item, paid_usd=Decimal(paid))
            for number, customer, item, paid in ORDERS
        ]
        ShopOrder.objects.bulk_create(orders, ignore_conflicts=True)


def submit_tasks() -> None:
    """Submit what a reviewer can decide on at once, as the demo's user. Nothing that a real model would be paid for."""
    user = User.objects.filter(username=roles.USER).first()
    known = registry.current().endpoints
    for name, given in TASKS.items():
        endpoint = known.get(name)
        if user is None or endpoint is None or not endpoint.active:
            continue
        version = AgentVersion.objects.get(pk=endpoint.agent_version_id)
        if choose.resolve(version.definition["model"]["default"]) == choose.DEMO:
            invoke(name, given, user=user, actor=SYSTEM, idempotency_key="demo")


def _create_user(name: str) -> str:
    password = readable_password()
    make = User.objects.create_superuser if name == roles.ADMIN else User.objects.create_user
    user = make(name, password=password)
    user.groups.add(Group.objects.get_or_create(name=name)[0])
    return password


def readable_password() -> str:
    """Return a password like ``tavo-rilu-keni-42``: easy to copy by eye, about 43 bits."""
    words = ("".join(secrets.choice(letters) for letters in (CONSONANTS, VOWELS) * 2) for _ in range(3))
    return "-".join([*words, f"{secrets.randbelow(100):02d}"])
