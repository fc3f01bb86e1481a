"""Optimistic transactions whose connection is lost on the way.

`test_*_19` shows: an optimistic transaction commits only if everything that it read by key is
unchanged, all of it or nothing, also when the answer is lost.
"""

from __future__ import annotations

import threading

import pytest

from pgmem import Event, Memory
from pgmem.errors import OutcomeUnknown
from tests.support.cutting import ByteRelay, CuttingRelay


@pytest.fixture
def relay(database_url, tmp_path):
    relay = CuttingRelay(database_url, tmp_path)
    yield relay
    relay.close()


@pytest.fixture
def cut(relay):
    """A memory behind the relay, which cuts one connection when it is told to."""
    with Memory(relay.url, pool=2) as memory:
        memory.state.put("warm", 1)
        yield memory
    assert relay.cuts == 1, "the connection was not cut: the test shows nothing"


def write(memory, **options):
    with memory.optimistic(**options) as tx:
        tx.state.get("k")
        tx.state.put("k", "value")
        tx.events.append("s", Event(type="t"))
    return tx.committed


def written(memory):
    entry = memory.state.get("k")
    return (entry.version if entry else 0), len(memory.events.read("s", limit=1_000))


def test_a_commit_with_a_lost_answer_is_recognised_by_its_key_19(cut, relay, memory):
    relay.cut_once_after(b"COMMIT\x00")
    receipt = write(cut, idempotency_key="key")
    assert receipt.duplicate
    assert receipt.versions == {"k": 1}
    assert receipt.position == memory.events.read("s")[0].position
    assert written(memory) == (1, 1)


def test_without_a_key_the_caller_is_told_that_the_outcome_is_unknown(cut, relay, memory):
    relay.cut_once_after(b"COMMIT\x00")
    with pytest.raises(OutcomeUnknown):
        write(cut)
    assert written(memory) == (1, 1)


@pytest.fixture
def exchange(database_url, tmp_path):
    """A relay that can cut each direction after a number of bytes."""
    relay = ByteRelay(database_url, tmp_path)
    yield relay
    relay.close()


POINTS = 150


@pytest.mark.parametrize("direction", ["requests", "answers"])
def test_a_connection_lost_at_any_byte_leaves_all_or_nothing_19(exchange, memory, direction):
    """With a key the block takes effect once, and its first receipt comes back."""
    with Memory(exchange.url, pool=1) as cut:
        for at in _points(exchange, cut, direction):
            cut.state.get("warm")  # The last point has left no connection.
            exchange.cut_once_at(direction, at)
            receipt = write(cut, idempotency_key=f"at:{at}")
            entry, events = memory.state.get("k"), memory.events.read("s", limit=1_000)
            assert receipt.versions == {"k": entry.version}, at
            assert entry.version == len(events), at
            assert receipt.position == events[-1].position, at
    assert exchange.cuts > POINTS / 4


@pytest.mark.parametrize("direction", ["requests", "answers"])
def test_without_a_key_a_lost_connection_is_an_unknown_outcome_or_a_commit(
    exchange, memory, direction
):
    unknown = 0
    with Memory(exchange.url, pool=1) as cut:
        for at in _points(exchange, cut, direction):
            cut.state.get("warm")
            before = written(memory)[0]
            exchange.cut_once_at(direction, at)
            try:
                receipt = write(cut)
            except OutcomeUnknown:
                unknown += 1
                assert written(memory)[0] in (before, before + 1), at
            else:
                assert receipt.versions == {"k": before + 1} == {"k": written(memory)[0]}, at
            version, events = written(memory)
            assert version == events, at
    assert unknown > POINTS / 4


def _points(exchange, cut, direction):
    """Return bytes of the exchange of one block: its ends, and a selection between them."""
    cut.state.get("warm")
    before = exchange.transferred[direction]
    write(cut, idempotency_key="measured")
    length = exchange.transferred[direction] - before
    step = max(1, length // POINTS)
    return sorted({*range(10), *range(0, length, step), *range(length - 20, length)})


def test_threads_that_transfer_lose_and_create_nothing_19(database_url):
    """Transfer between accounts in opposite orders."""
    with Memory(database_url) as memory:
        memory.state.put_many({f"account:{n}": 100 for n in range(4)})

        def work(seed):
            for turn in range(10):
                source = f"account:{(seed + turn) % 4}"
                target = f"account:{(seed + turn + 1 + seed % 3) % 4}"

                def transfer(tx, source=source, target=target):
                    a, b = tx.state.get(source), tx.state.get(target)
                    tx.state.put(source, a.value - 1)
                    tx.state.put(target, b.value + 1)
                    tx.events.append("transfers", Event(type="moved"))

                memory.run_transaction(transfer, optimistic=True, retries=200)
                done.append(1)

        done: list[int] = []
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = memory.state.get_many([f"account:{n}" for n in range(4)])
        assert sum(entry.value for entry in entries.values()) == 400
        assert memory.events.count("transfers") == len(done)
        assert sum(entry.version - 1 for entry in entries.values()) == 2 * len(done)
