"""Rate limits: a burst and a rate that all processes share."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import InvalidInput
from pgmem.leases import limit_ops as ops


async def test_burst_passes_then_calls_are_refused(both):
    permits = [await both.limits.acquire("l", rate=0.01, burst=3) for _ in range(4)]
    assert [permit.granted for permit in permits] == [True, True, True, False]
    assert [permit.remaining for permit in permits] == [2, 1, 0, 0]
    assert 50 < permits[3].retry_after <= 100
    assert (await both.limits.acquire("another", rate=0.01, burst=1)).granted


async def test_a_pause_saves_up_no_more_than_the_burst(both):
    await both.limits.acquire("l", rate=0.01, burst=3)
    later(both, 86_400)
    permits = [await both.limits.acquire("l", rate=0.01, burst=3) for _ in range(4)]
    assert [permit.granted for permit in permits] == [True, True, True, False]
    assert [permit.remaining for permit in permits] == [2, 1, 0, 0]


async def test_refused_call_writes_nothing(both):
    await both.limits.acquire("l", rate=0.01, burst=1)
    with psycopg.connect(both_url(both), autocommit=True) as server:
        before = server.execute("SELECT arrival, xmin::text, xmax::text FROM pgmem.limits")
        before = before.fetchall()
        for _ in range(3):
            assert not (await both.limits.acquire("l", rate=0.01, burst=1)).granted
        after = server.execute("SELECT arrival, xmin::text, xmax::text FROM pgmem.limits")
        assert after.fetchall() == before


async def test_call_fits_after_retry_after(both):
    assert (await both.limits.acquire("l", rate=0.01, burst=1)).granted
    refused = await both.limits.acquire("l", rate=0.01, burst=1)
    assert not refused.granted
    assert 0 < refused.retry_after <= 100
    later(both, refused.retry_after / 2)
    assert not (await both.limits.acquire("l", rate=0.01, burst=1)).granted
    later(both, refused.retry_after / 2)
    assert (await both.limits.acquire("l", rate=0.01, burst=1)).granted


async def test_timeout_waits_only_if_the_call_can_fit(both):
    assert (await both.limits.acquire("l", rate=20, burst=1)).granted
    assert (await both.limits.acquire("l", rate=20, burst=1, timeout=5)).granted
    await both.limits.acquire("slow", rate=0.01, burst=1)
    hopeless = both.limits.acquire("slow", rate=0.01, burst=1, timeout=60)
    assert not (await asyncio.wait_for(hopeless, 20)).granted


async def test_waiting_call_executes_two_statements(form, monkeypatch):
    asked, acquire = [], ops.acquire

    def count(*args):
        op = acquire(*args)
        return op._replace(parse=lambda rows: asked.append(op) or op.parse(rows))

    monkeypatch.setattr(ops, "acquire", count)
    async with form.memory() as memory:
        assert (await memory.limits.acquire("l", rate=10, burst=1)).granted
        asked.clear()
        assert (await memory.limits.acquire("l", rate=10, burst=1, timeout=5)).granted
    assert len(asked) <= 3, "refused, and granted; or refused once more by a hair"


async def test_cost_counts_several_calls(both):
    assert (await both.limits.acquire("l", rate=0.01, burst=10, cost=8)).remaining == 2
    refused = await both.limits.acquire("l", rate=0.01, burst=10, cost=3)
    assert not refused.granted
    assert 50 < refused.retry_after <= 100, "until one more fits"
    assert (await both.limits.acquire("l", rate=0.01, burst=10, cost=2)).granted


async def test_call_in_a_transaction_counts_if_it_commits(both):
    with suppress(ZeroDivisionError):
        async with both.transaction() as tx:
            assert (await tx.limits.acquire("l", rate=0.01, burst=1)).granted
            raise ZeroDivisionError
    assert (await both.limits.acquire("l", rate=0.01, burst=1)).granted
    async with both.transaction() as tx:
        with pytest.raises(InvalidInput, match="timeout"):
            await tx.limits.acquire("l", rate=1, burst=1, timeout=1)


def test_concurrent_calls_get_no_more_than_the_burst(database_url):
    granted = []
    with Memory(database_url, pool=8) as memory:

        def ask():
            granted.extend(
                memory.limits.acquire("l", rate=0.01, burst=30).granted for _ in range(10)
            )

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(granted) == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"rate": 0},
        {"rate": -1},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": "1"},
        {"rate": True},
        {"burst": 0},
        {"burst": 1.5},
        {"cost": 0},
        {"cost": 6},
        {"timeout": -1},
    ],
)
async def test_invalid_options_are_refused(both, wrong):
    with pytest.raises(InvalidInput):
        await both.limits.acquire(**{"name": "l", "rate": 1, "burst": 5, **wrong})


def later(both, seconds) -> None:
    """Let the limits of a memory be as old as they are after a pause."""
    with psycopg.connect(both_url(both), autocommit=True) as server:
        server.execute(
            "UPDATE pgmem.limits SET arrival = arrival - make_interval(secs => %s)", [seconds]
        )


def both_url(both) -> str:
    """Return the database of a memory in either form."""
    return getattr(both, "wrapped", both)._database.conninfo
