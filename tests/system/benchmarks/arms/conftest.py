"""Provide the server that both arms are tested on."""

from __future__ import annotations

import contextlib

import pytest

from benchmarks import redis_server


@pytest.fixture(scope="module")
def server():
    # Durability does not matter here, and each sync would take time.
    with redis_server.redis("none") as server:
        yield server


@pytest.fixture
def client(server):
    """Return a client of the server for assertions."""
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client
