from __future__ import annotations

import pytest
from django.db import OperationalError, ProgrammingError, connection, transaction

from audit.time_limit import at_most, in_time, took_too_long

pytestmark = pytest.mark.django_db(transaction=True)


def ask(sql: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def limit() -> object:
    return ask("SHOW statement_timeout")


def test_what_comes_in_time_is_returned() -> None:
    assert in_time(5, lambda: ask("SELECT 7")) == 7


def test_what_takes_longer_is_given_up_and_the_transaction_goes_on() -> None:
    with transaction.atomic():
        assert in_time(0.01, lambda: ask("SELECT pg_sleep(60)")) is None
        assert ask("SELECT 7") == 7


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(ProgrammingError):
        in_time(5, lambda: ask("SELECT no_such_column"))


def test_an_error_tells_whether_it_took_too_long() -> None:
    with pytest.raises(OperationalError) as caught, at_most(0.01):
        ask("SELECT pg_sleep(60)")
    assert took_too_long(caught.value)
    assert not took_too_long(OperationalError("away"))


def test_the_limit_before_is_in_force_again_however_it_ends() -> None:
    with transaction.atomic():
        ask("SELECT set_config('statement_timeout', '90s', true)")
        with at_most(5):
            assert limit() == "5s"
            assert in_time(0.01, lambda: ask("SELECT pg_sleep(60)")) is None
            assert limit() == "5s"
            assert in_time(1, limit) == "1s"
            assert limit() == "5s"
        assert limit() == "90s"
    assert limit() == "0"
