"""The embedded servers: any path, any kill, several users."""

from __future__ import annotations

import psycopg
import redis

from astra_site import embedded
from tests.conftest import DATA_DIR


def test_the_tests_run_on_a_real_postgresql_and_a_real_valkey() -> None:
    with psycopg.connect(embedded.database_url(DATA_DIR)) as connection:
        assert connection.info.server_version >= 180000
    with redis.Redis.from_url(embedded.redis_url(DATA_DIR)) as client:
        assert client.info("server")["server_name"] == "valkey"
