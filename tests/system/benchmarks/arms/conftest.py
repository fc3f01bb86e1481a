"""The server that both arms are tried on."""

from __future__ import annotations

import contextlib

import pytest

from benchmarks import redis_server


@pytest.fixture(scope="module")
def server():
    # Durability is no subject here, and each sync would cost the tests a while.
    with redis_server.redis("none") as server:
        yield server


@pytest.fixture
def client(server):
    """What the tests look into the server with."""
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client
