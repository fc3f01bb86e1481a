"""Dedupe: claims, results, takeover, and work inside a transaction."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from pgmem import AsyncMemory, Memory, Outcome
from pgmem.errors import (
    CallbackFailed,
    InvalidInput,
    InvalidValue,
    LeaseHeld,
    LeaseLost,
    ValueTooLarge,
    VersionConflict,
)
from tests.support.database import sql


def end_leases(url):
    sql(url, "UPDATE pgmem.dedupe SET lease_expires_at = clock_timestamp() - interval '1 s'")


class Receipt(BaseModel):
    reference: str
    at: datetime


class Other(BaseModel):
    number: int


def end_results(url):
    sql(url, "UPDATE pgmem.dedupe SET expires_at = clock_timestamp() - interval '1 s'")


async def test_work_is_done_once_and_its_result_kept(both):
    calls = []

    def work():
        calls.append(1)
        return {"reference": "r-1"}

    assert await both.dedupe.run_once("k", work) == Outcome("processed", {"reference": "r-1"})
    assert await both.dedupe.run_once("k", work) == Outcome("skipped", {"reference": "r-1"})
    assert len(calls) == 1


async def test_work_that_raises_can_be_done_again(both):
    def fail():
        raise ConnectionError("the bank is down")

    with pytest.raises(CallbackFailed, match="ConnectionError") as error:
        await both.dedupe.run_once("k", fail)
    assert isinstance(error.value.__cause__, ConnectionError)
    assert "bank" not in str(error.value)
    assert (await both.dedupe.run_once("k", lambda: 1)).status == "processed"


async def test_pgmem_errors_are_raised_unchanged(both):
    def conflict():
        raise VersionConflict("x", expected=1, actual=2)

    with pytest.raises(VersionConflict):
        await both.dedupe.run_once("k", conflict)
    assert (await both.dedupe.run_once("k", lambda: 1)).status == "processed"


async def test_expired_result_lets_the_work_run_again(both, database_url):
    await both.dedupe.run_once("k", lambda: 1, ttl=3600)
    assert (await both.dedupe.run_once("k", lambda: 2)).status == "skipped"
    end_results(database_url)
    assert await both.dedupe.run_once("k", lambda: 2) == Outcome("processed", 2)
    assert await both.dedupe.run_once("k", lambda: 3) == Outcome("skipped", 2)


async def test_result_without_end_has_none(both, database_url):
    await both.dedupe.run_once("k", lambda: 1, ttl=None)
    end = sql(database_url, "SELECT expires_at FROM pgmem.dedupe")
    assert end == [(None,)]


async def test_work_that_is_done_is_not_written_to_again(both, database_url):
    # Otherwise each repeated call would lock the row, and its commit would wait for the WAL flush.
    await both.dedupe.run_once("k", lambda: 1)
    before = sql(database_url, "SELECT xmin, xmax FROM pgmem.dedupe")
    assert (await both.dedupe.run_once("k", lambda: 2)).status == "skipped"
    assert (await both.dedupe.claim("k")).result == 1
    async with both.transaction() as tx:
        assert await tx.dedupe.run_once("k", lambda: 2) == Outcome("skipped", 1)
    assert sql(database_url, "SELECT xmin, xmax FROM pgmem.dedupe") == before


async def test_second_claim_is_refused_while_the_lease_runs(both):
    claim = await both.dedupe.claim("k", lease=60)
    assert claim.acquired
    with pytest.raises(LeaseHeld) as held:
        await both.dedupe.claim("k")
    assert held.value.expires_at == claim.expires_at
    with pytest.raises(LeaseHeld):
        await both.dedupe.run_once("k", lambda: 1, timeout=0.05)


async def test_takeover_fences_the_old_holder_out(both, database_url):
    old = await both.dedupe.claim("k")
    end_leases(database_url)
    new = await both.dedupe.claim("k")
    assert new.acquired
    assert new.token > old.token
    for verb in (both.dedupe.complete(old, "late"), both.dedupe.release(old)):
        with pytest.raises(LeaseLost, match=str(new.token)):
            await verb
    await both.dedupe.complete(new, "right")
    with pytest.raises(LeaseLost, match="completed"):
        await both.dedupe.complete(old, "late")
    assert (await both.dedupe.claim("k")).result == "right"


async def test_late_completion_is_accepted_if_no_other_caller_took_over(both, database_url):
    claim = await both.dedupe.claim("k")
    end_leases(database_url)
    await both.dedupe.complete(claim, 1)
    assert (await both.dedupe.claim("k")).result == 1


async def test_completing_twice_keeps_the_first_result(both):
    claim = await both.dedupe.claim("k")
    await both.dedupe.complete(claim, 1)
    await both.dedupe.complete(claim, 2)
    assert (await both.dedupe.claim("k")).result == 1


async def test_released_claim_is_free_and_its_token_never_returns(both):
    first = await both.dedupe.claim("k")
    await both.dedupe.release(first)
    second = await both.dedupe.claim("k")
    assert second.acquired
    assert second.token > first.token
    with pytest.raises(LeaseLost):
        await both.dedupe.complete(first)


async def test_only_what_was_acquired_can_be_completed(both):
    await both.dedupe.run_once("k", lambda: 1)
    done = await both.dedupe.claim("k")
    assert (done.acquired, done.result) == (False, 1)
    with pytest.raises(InvalidInput, match="not acquired"):
        await both.dedupe.complete(done, 2)
    with pytest.raises(InvalidInput, match="Claim"):
        await both.dedupe.release("k")


async def test_waiting_caller_gets_the_result_of_the_running_one(both, database_url):
    begun, may_end = threading.Event(), threading.Event()

    def work():
        begun.set()
        may_end.wait(30)
        return "done"

    def work_slowly():
        with Memory(database_url) as other:
            return other.dedupe.run_once("k", work)

    at_work = asyncio.get_running_loop().run_in_executor(None, work_slowly)
    await asyncio.to_thread(begun.wait, 30)
    threading.Timer(0.2, may_end.set).start()
    assert await both.dedupe.run_once("k", lambda: "again") == Outcome("skipped", "done")
    assert await at_work == Outcome("processed", "done")


async def test_waiting_caller_takes_over_when_the_lease_runs_out(both):
    # A copy, because a claim is renewed as long as its caller keeps it.
    dead = replace(await both.dedupe.claim("k", lease=0.3))
    assert await both.dedupe.run_once("k", lambda: "mine") == Outcome("processed", "mine")
    with pytest.raises(LeaseLost):
        await both.dedupe.complete(dead, "late")


class Incomparable(str):
    """A text that is written as any other, and raises when it is compared."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        raise LookupError(self)


REFUSED = [(1, 2), {1, 2}, b"x", float("nan"), object(), "x" * 2_000_000, Incomparable("secret")]


@pytest.mark.parametrize("result", REFUSED, ids=type)
async def test_work_with_a_result_that_cannot_be_stored_is_not_done_again(
    both, database_url, result
):
    calls = []

    def work():
        calls.append(1)
        return result

    with pytest.raises(InvalidValue, match="result") as refused:
        await both.dedupe.run_once("k", work)
    assert "The work under the key 'k' is done, and its result is not stored" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert isinstance(refused.value, ValueTooLarge) == (type(result) is str)
    assert await both.dedupe.run_once("k", work) == Outcome("skipped", None)
    assert await both.dedupe.run_once("k", work, model=Other) == Outcome("skipped", None)
    assert (await both.dedupe.claim("k")).result is None
    assert len(calls) == 1


@pytest.mark.parametrize("result", REFUSED, ids=type)
async def test_effects_are_undone_if_the_result_cannot_be_stored(form, database_url, result):
    insert = "INSERT INTO pgmem.state (key, version) VALUES ('effect', 1)"
    async with form.memory() as memory, memory.transaction() as tx:

        async def work():
            await tx.connection.execute(insert)
            return result

        def sync_work():
            tx.connection.execute(insert)
            return result

        with pytest.raises(InvalidValue, match="result") as refused:
            await tx.dedupe.run_once("k", work if form.name == "async" else sync_work)
        assert "is done" not in str(refused.value)
    assert sql(database_url, "SELECT FROM pgmem.dedupe UNION ALL SELECT FROM pgmem.state") == []


async def test_result_is_the_same_for_every_caller(both):
    given = Receipt(reference="r-1", at=datetime(2026, 3, 1, tzinfo=UTC))
    as_json = {"reference": "r-1", "at": "2026-03-01T00:00:00Z"}
    for key, options, expected in (("j", {}, as_json), ("m", {"model": Receipt}, given)):
        for status in ("processed", "skipped"):
            outcome = await both.dedupe.run_once(key, lambda: given, **options)
            assert outcome == Outcome(status, expected)
            async with both.transaction() as tx:
                outcome = await tx.dedupe.run_once(f"tx:{key}", lambda: given, **options)
            assert outcome == Outcome(status, expected)
        assert (await both.dedupe.claim(key, **options)).result == expected
    with pytest.raises(InvalidValue, match="result"):
        await both.dedupe.run_once("m", lambda: given, model=Other)
    with pytest.raises(InvalidValue, match=r"result does not fit Other.* is done"):
        await both.dedupe.run_once("new", lambda: given, model=Other)
    for key, status in (("new", "skipped"), ("none", "processed"), ("none", "skipped")):
        outcome = await both.dedupe.run_once(key, lambda: None, model=Other)
        assert outcome == Outcome(status, None)


async def test_record_and_effects_commit_together(both):
    async with both.transaction() as tx:
        outcome = await tx.dedupe.run_once("k", lambda: {"r": 1})
        await tx.state.put("effect", 1)
        assert outcome == Outcome("processed", {"r": 1})
        assert await tx.dedupe.run_once("k", lambda: 2) == Outcome("skipped", {"r": 1})
    async with both.transaction() as tx:
        assert await tx.dedupe.run_once("k", lambda: 2) == Outcome("skipped", {"r": 1})
    assert await both.dedupe.run_once("k", lambda: 2) == Outcome("skipped", {"r": 1})


async def test_failed_transaction_leaves_no_record(both):
    async def fail():
        async with both.transaction() as tx:
            await tx.dedupe.run_once("k", lambda: 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with both.transaction() as tx:
        assert (await tx.dedupe.run_once("k", lambda: 2)).status == "processed"


async def test_work_that_raises_in_a_transaction_undoes_only_itself(both):
    async with both.transaction() as tx:
        await tx.state.put("before", 1)

        def fail():
            raise ValueError

        with pytest.raises(CallbackFailed):
            await tx.dedupe.run_once("k", fail)
        with pytest.raises(InvalidValue):
            await tx.dedupe.run_once("k", object)
        await tx.state.put("after", 1)
        assert (await tx.dedupe.run_once("k", lambda: 5)).status == "processed"
    assert len(await both.state.list()) == 2


def test_effects_of_work_that_raises_are_undone_with_its_record(memory):
    with memory.transaction() as tx:

        def fail_half_way():
            tx.state.put("half", 1)
            raise ValueError

        with pytest.raises(CallbackFailed):
            tx.dedupe.run_once("k", fail_half_way)
        tx.state.put("other", 1)
    assert [entry.key for entry in memory.state.list()] == ["other"]


async def test_effects_of_async_work_that_raises_are_undone_with_its_record(database_url):
    async with AsyncMemory(database_url) as memory:
        async with memory.transaction() as tx:

            async def fail_half_way():
                await tx.state.put("half", 1)
                raise ValueError

            with pytest.raises(CallbackFailed):
                await tx.dedupe.run_once("k", fail_half_way)
            await tx.state.put("other", 1)
        assert [entry.key for entry in await memory.state.list()] == ["other"]


async def test_transaction_refuses_work_that_is_claimed_elsewhere(both, database_url):
    await both.dedupe.claim("k")
    async with both.transaction() as tx:
        with pytest.raises(LeaseHeld):
            await tx.dedupe.run_once("k", lambda: 1)
        await tx.state.put("other", 1)
    end_leases(database_url)
    async with both.transaction() as tx:
        assert (await tx.dedupe.run_once("k", lambda: 1)).status == "processed"


async def test_second_transaction_waits_and_gets_the_first_ones_result(both, database_url):
    begun, may_end = threading.Event(), threading.Event()

    def work():
        begun.set()
        may_end.wait(30)
        return "first"

    def run(fn):
        with Memory(database_url) as memory, memory.transaction() as tx:
            return tx.dedupe.run_once("k", fn)

    loop = asyncio.get_running_loop()
    first = loop.run_in_executor(None, run, work)
    await asyncio.to_thread(begun.wait, 30)
    second = loop.run_in_executor(None, run, lambda: "second")
    threading.Timer(0.2, may_end.set).start()
    assert await first == Outcome("processed", "first")
    assert await second == Outcome("skipped", "first")


async def test_async_work_is_awaited_and_refused_in_the_sync_form(form):
    async def work():
        return 1

    async with form.memory() as memory:
        if form.name == "async":
            assert await memory.dedupe.run_once("k", work) == Outcome("processed", 1)
        else:
            with pytest.raises(InvalidInput, match="AsyncMemory"):
                await memory.dedupe.run_once("k", work)
            assert (await memory.dedupe.run_once("k", lambda: 1)).status == "processed"
