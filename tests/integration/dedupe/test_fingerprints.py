"""One key names one piece of work: another fingerprint under it is an error."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pgmem import Outcome
from pgmem.errors import IdempotencyMismatch, InvalidValue
from tests.support.database import sql

ORDER = {"order": 17, "amount": 5}


class Order(BaseModel):
    amount: int
    order: int


async def test_other_fingerprint_under_a_key_is_refused_and_the_work_not_done(both):
    calls = []
    await both.dedupe.run_once("k", lambda: 1, fingerprint=ORDER)
    for other in ({"order": 17, "amount": 6}, [], "x", 0):
        with pytest.raises(IdempotencyMismatch, match="'k'"):
            await both.dedupe.run_once("k", lambda: calls.append(1), fingerprint=other)
        with pytest.raises(IdempotencyMismatch, match="'k'"):
            await both.dedupe.claim("k", fingerprint=other)
        async with both.transaction() as tx:
            with pytest.raises(IdempotencyMismatch, match="'k'"):
                await tx.dedupe.run_once("k", lambda: calls.append(1), fingerprint=other)
            await tx.state.put("usable", 1)
    assert not calls


@pytest.mark.parametrize(
    "same", [ORDER, {"amount": 5, "order": 17}, Order(order=17, amount=5), None]
)
async def test_same_fingerprint_or_none_gets_the_result(both, same):
    async with both.transaction() as tx:
        await tx.dedupe.run_once("k", lambda: 1, fingerprint=ORDER)
    assert await both.dedupe.run_once("k", lambda: 2, fingerprint=same) == Outcome("skipped", 1)
    async with both.transaction() as tx:
        assert await tx.dedupe.run_once("k", lambda: 2, fingerprint=same) == Outcome("skipped", 1)


async def test_key_without_a_fingerprint_takes_any(both):
    await both.dedupe.run_once("k", lambda: 1)
    assert await both.dedupe.run_once("k", lambda: 2, fingerprint=ORDER) == Outcome("skipped", 1)


async def test_running_work_of_another_fingerprint_is_not_waited_for(both):
    claim = await both.dedupe.claim("k", fingerprint=ORDER)
    with pytest.raises(IdempotencyMismatch):
        await both.dedupe.run_once("k", lambda: 2, fingerprint="other", timeout=None)
    async with both.transaction() as tx:
        with pytest.raises(IdempotencyMismatch):
            await tx.dedupe.run_once("k", lambda: 2, fingerprint="other")
    await both.dedupe.release(claim)
    assert (await both.dedupe.run_once("k", lambda: 2, fingerprint="other")).status == "processed"


async def test_claim_that_ran_out_keeps_its_fingerprint(both, database_url):
    # Its holder may have done a part of the work.
    await both.dedupe.claim("k", fingerprint=ORDER)
    for options in ({"fingerprint": ORDER}, {}):
        sql(database_url, "UPDATE pgmem.dedupe SET lease_expires_at = now() - interval '1 s'")
        with pytest.raises(IdempotencyMismatch):
            await both.dedupe.claim("k", fingerprint="other")
        async with both.transaction() as tx:
            with pytest.raises(IdempotencyMismatch):
                await tx.dedupe.run_once("k", lambda: 2, fingerprint="other")
        assert (await both.dedupe.claim("k", **options)).acquired
    sql(database_url, "UPDATE pgmem.dedupe SET lease_expires_at = now() - interval '1 s'")
    async with both.transaction() as tx:
        await tx.dedupe.run_once("k", lambda: 2)
    with pytest.raises(IdempotencyMismatch):
        await both.dedupe.claim("k", fingerprint="other")


async def test_expired_result_frees_the_key_for_another_fingerprint(both, database_url):
    await both.dedupe.run_once("k", lambda: 1, fingerprint=ORDER)
    sql(database_url, "UPDATE pgmem.dedupe SET expires_at = now() - interval '1 s'")
    assert (await both.dedupe.run_once("k", lambda: 2, fingerprint="other")).status == "processed"
    with pytest.raises(IdempotencyMismatch):
        await both.dedupe.run_once("k", lambda: 3, fingerprint=ORDER)
    sql(database_url, "UPDATE pgmem.dedupe SET expires_at = now() - interval '1 s'")
    async with both.transaction() as tx:
        assert (await tx.dedupe.run_once("k", lambda: 4, fingerprint=[4])).status == "processed"


async def test_fingerprint_that_is_no_json_value_is_refused(both):
    for wrong in (b"x", (1,), object()):
        for call in (both.dedupe.run_once("k", lambda: 1, fingerprint=wrong),
                     both.dedupe.claim("k", fingerprint=wrong)):  # fmt: skip
            with pytest.raises(InvalidValue, match="fingerprint"):
                await call
    assert (await both.dedupe.claim("k")).acquired
