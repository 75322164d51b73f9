from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _database(transactional_db: None) -> None:
    """Jobs are seen by other connections and processes: nothing here is rolled back at the end of a test."""
