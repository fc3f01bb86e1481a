"""The usual claim, which acknowledges a whole batch and takes the next: it does all or nothing."""

from __future__ import annotations

import pytest

from pgmem import Event, Memory
from pgmem.errors import LeaseLost
from tests.support.groups import lapse


@pytest.fixture
def group(memory: Memory):
    memory.events.append("work", [Event(type="t", payload={"n": n}) for n in range(6)])
    return memory.groups.create("team", stream="work")


def numbers(deliveries):
    return [delivery.event.payload["n"] for delivery in deliveries]


def test_each_batch_takes_the_place_of_the_one_before(group):
    held = group.read("me", 2)
    for expected in ([2, 3], [4, 5]):
        tokens = {delivery.token for delivery in held}
        held = group.read("me", 2, ack=held)
        assert numbers(held) == expected
        assert {delivery.token for delivery in held}.isdisjoint(tokens)
        assert {delivery.attempts for delivery in held} == {1}
        assert group.info().held == 2
    assert group.read("me", 2, ack=held) == []
    assert group.info().held == 0


@pytest.mark.parametrize("before", [slice(0, 1), slice(1, 3), slice(0, 3)])
def test_what_was_acknowledged_before_moves_nothing(group, before):
    held = group.read("me", 3)
    group.ack(held[before])
    info = group.info()
    with pytest.raises(LeaseLost):
        group.read("me", 2, ack=held)
    assert group.info() == info
    assert numbers(group.read("me", 2)) == [3, 4]


def test_a_part_of_a_batch_leaves_the_rest_of_it_held(group):
    held = group.read("me", 3)
    assert numbers(group.read("me", 2, ack=held[1:])) == [3, 4]
    group.ack(held[:1])
    assert group.info().held == 2


def test_what_comes_first_is_not_passed_by(group):
    first = group.read("me", 2)
    first[0].nack()
    assert numbers(group.read("me", 2, ack=first[1:])) == [0]


def test_what_is_handed_out_strictly_is_on_disk(group, memory):
    held = group.read("me", 2)
    with memory.transaction() as tx:
        begun = tx.connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
    group.read("me", 2, ack=held)
    with memory.transaction() as tx:
        written = tx.connection.execute(
            "SELECT pg_current_wal_flush_lsn() > %s::pg_lsn", [begun]
        ).fetchone()[0]
    assert written


def test_a_batch_that_another_process_took_over_is_not_acknowledged(group, database_url):
    held = group.read("me", 3)
    lapse(database_url)
    with Memory(database_url) as other:
        taken = other.groups.get("team").read("other", 3)
        assert numbers(taken) == [0]
        with pytest.raises(LeaseLost):
            group.read("me", 3, ack=held)
        other.groups.get("team").ack(taken)
