"""Run a real Redis for each worker, emptied for each test."""

from __future__ import annotations

import contextlib

import pytest
import redis

from benchmarks import redis_server
from benchmarks.arms.published import Published
from pgmem.redis import SharedMemoryLayer
from tests.system.redis.layers import Layers


@pytest.fixture(scope="session")
def redis_of_run():
    """The worker's server. It does not sync, because durability is not tested here."""
    with redis_server.redis("none") as server:
        yield server


@pytest.fixture
def redis_url(redis_of_run):
    """The URL of an empty Redis."""
    with contextlib.closing(redis_of_run.client()) as client:
        client.flushall()
    return redis_of_run.url


@pytest.fixture
def client(redis_url):
    """A client of that Redis."""
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture(params=["async", "sync"])
def layers(request, database_url):
    """Makes layers of `pgmem.redis` in one of the two forms."""
    return Layers(request.param, database_url)


@pytest.fixture
async def layer(layers):
    """A layer of `pgmem.redis` in one of the two forms."""
    async with layers.open() as layer:
        yield layer


@pytest.fixture
def on_redis(redis_url):
    """Makes layers of the published code. `work` processes an event."""
    with contextlib.ExitStack() as stack:

        def make(work=None, *, kind=redis.Redis, **options):
            connection = kind.from_url(redis_url, socket_timeout=None)
            return Published(stack.enter_context(contextlib.closing(connection)), work, **options)

        yield make


@pytest.fixture
def on_pgmem(database_url):
    """Makes sync layers of `pgmem.redis`. `work` processes an event."""
    with contextlib.ExitStack() as stack:

        def make(work=None, *, url=database_url, **options):
            class Layer(SharedMemoryLayer):
                def _do_actual_work(self, event):
                    return work(event)

            return stack.enter_context(Layer(url, **options))

        yield make
