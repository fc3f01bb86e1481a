"""Run a real Redis to import from."""

from __future__ import annotations

import contextlib

import pytest
import redis

from benchmarks import redis_server
from tests.system.redis.importing.support import Importing


@pytest.fixture(scope="session")
def source_server():
    """The worker's Redis. It is emptied for each test, and never stopped by one."""
    with redis_server.redis("none") as server:
        yield server


@pytest.fixture
def source(source_server):
    """A client of an empty Redis."""
    with contextlib.closing(redis.Redis.from_url(source_server.url)) as client:
        client.flushall()
        yield client


@pytest.fixture
def importing(source, source_server, memory, tmp_path):
    """Imports from `source` into `memory`."""
    return Importing(source_server.url, memory, tmp_path)
