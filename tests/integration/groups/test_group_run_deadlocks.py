"""Handlers that deadlock in the database: none of their events fails or becomes a dead letter."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Memory
from pgmem.errors import TransactionConflict
from tests.support.group_run import GroupRun, fill, idle

pytestmark = pytest.mark.both_forms  # handlers wait for each other in threads, or in tasks

PAIRS = 30


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    # The server looks for a deadlock after a second by default.
    return GroupRun(request.param, make_conninfo(database_url, options="-c deadlock_timeout=20ms"))


class Handlers:
    """Handlers of two neighbouring events lock two entries in opposite order, after each other.

    Attributes:
        attempts: of each call.
        deadlocks: by the number of the pair.
    """

    def __init__(self, barrier) -> None:
        self.attempts = []
        self.deadlocks = Counter()
        self._calls = Counter()
        self._barriers = [barrier(2) for _ in range(PAIRS)]

    def _begin(self, delivery):
        n = delivery.event.payload["n"]
        self.attempts.append(delivery.attempts)
        self._calls[n] += 1
        first, second = (f"a{n // 2}", f"b{n // 2}")[:: 1 if n % 2 else -1]
        # Both have their first entry before either asks for its second one.
        barrier = self._barriers[n // 2] if self._calls[n] == 1 else None
        return n // 2, first, second, barrier

    def sync(self, delivery, tx):
        pair, first, second, barrier = self._begin(delivery)
        tx.state.update(first, lambda value: value + 1)
        if barrier is not None:
            barrier.wait(20)
        try:
            tx.state.update(second, lambda value: value + 1)
        except TransactionConflict:
            self.deadlocks[pair] += 1
            raise

    async def tasks(self, delivery, tx):
        pair, first, second, barrier = self._begin(delivery)
        await tx.state.update(first, lambda value: value + 1)
        if barrier is not None:
            await asyncio.wait_for(barrier.wait(), 20)
        try:
            await tx.state.update(second, lambda value: value + 1)
        except TransactionConflict:
            self.deadlocks[pair] += 1
            raise


def test_60_events_with_a_deadlock_in_each_pair_are_handled_without_an_attempt_17(
    life, database_url
):
    keys = [f"{row}{pair}" for row in "ab" for pair in range(PAIRS)]
    with Memory(database_url) as memory:
        memory.state.put_many(dict.fromkeys(keys, 0), record=False)
    fill(database_url, 2 * PAIRS)
    life.opening["max_attempts"] = 1
    made = Handlers(threading.Barrier if life.name == "sync" else asyncio.Barrier)
    handle = made.sync if life.name == "sync" else made.tasks
    ran = life.run(handle, idle, once="transaction", concurrency=6, limit=1)
    assert ran == (2 * PAIRS, 0, 0)
    assert set(made.deadlocks) == set(range(PAIRS)), "a pair did not deadlock"
    assert set(made.attempts) == {1}
    with Memory(database_url) as memory:
        assert memory.groups.get("g").dead_letters() == []
        found = memory.state.get_many(keys)
    assert {entry.value for entry in found.values()} == {2}
