"""A claim is renewed while its work runs, and ends within its lease when its holder is gone."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace

import pytest

from pgmem import Outcome
from pgmem.errors import LeaseHeld, LeaseLost
from tests.support.database import sql
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.both_forms

LEASE = 0.4
"""Seconds. Four renewals take longer."""


def ends(url):
    return sql(url, "SELECT lease_expires_at FROM pgmem.dedupe WHERE key = 'k'")[0][0]


def work_for_several_leases(url):
    """Return work that ends when its lease has been renewed four times."""

    def work():
        seen = {ends(url)}
        wait_until(lambda: seen.add(ends(url)) or len(seen) > 4)
        return "done"

    return work


async def test_work_that_takes_longer_than_its_lease_is_done_once(form, database_url):
    async with form.memory() as memory, form.memory() as other:
        work = work_for_several_leases(database_url)
        if form.name == "async":
            running = memory.dedupe.run_once("k", lambda: asyncio.to_thread(work), lease=LEASE)
        else:
            running = memory.dedupe.run_once("k", work, lease=LEASE)
        running = asyncio.ensure_future(running)
        await until(lambda: sql(database_url, "SELECT 1 FROM pgmem.dedupe"))
        while not running.done():
            try:
                await other.dedupe.claim("k")
            except LeaseHeld:
                await asyncio.sleep(0.01)
                continue
            break
        assert await running == Outcome("processed", "done")
        assert sql(database_url, "SELECT count(*) FROM pgmem.dedupe") == [(1,)]
        assert await other.dedupe.run_once("k", lambda: 2) == Outcome("skipped", "done")


async def test_claim_is_renewed_until_it_is_completed(form, database_url):
    async with form.memory() as memory:
        claim = await memory.dedupe.claim("k", lease=LEASE)
        another = await memory.dedupe.claim("k2", lease=60)
        await until(lambda: ends(database_url) > claim.expires_at)
        await memory.dedupe.complete(claim, 1)
        assert ends(database_url) is None
        await memory.dedupe.release(another)


async def test_dropped_claim_runs_out(form):
    async with form.memory() as memory:
        claim = await memory.dedupe.claim("k", lease=LEASE)
        token = claim.token
        del claim
        gc.collect()
        taken = replace(await until_claimed(memory))
        assert taken.token > token


async def test_claim_of_a_closed_memory_runs_out(form):
    async with form.memory() as memory:
        claim = await memory.dedupe.claim("k", lease=LEASE)
    async with form.memory() as other:
        taken = await until_claimed(other)
        with pytest.raises(LeaseLost):
            await other.dedupe.complete(claim)
        await other.dedupe.complete(taken)


async def until_claimed(memory):
    while True:
        try:
            return await memory.dedupe.claim("k", lease=60)
        except LeaseHeld:
            await asyncio.sleep(0.01)


async def test_claim_that_was_taken_over_is_reported_and_not_renewed(form, database_url, caplog):
    caplog.set_level(logging.WARNING, "pgmem")
    async with form.memory() as memory:
        claim = await memory.dedupe.claim("k", lease=LEASE)
        sql(database_url, "UPDATE pgmem.dedupe SET token = token + 100, owner = 'other'")
        before = ends(database_url)
        await until(lambda: "the claim of 'k'" in caplog.text)
        assert ends(database_url) == before
        with pytest.raises(LeaseLost):
            await memory.dedupe.complete(claim, 1)


async def test_renewal_goes_on_after_lost_connections(form, database_url):
    async with form.memory() as memory:
        claim = await memory.dedupe.claim("k", lease=3)
        sql(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name <> 'pgmem tests'",
        )
        await until(lambda: ends(database_url) > claim.expires_at)
        await memory.dedupe.complete(claim)


async def test_memory_that_was_opened_again_renews(form, database_url):
    async with form.memory() as memory:
        await memory.dedupe.run_once("first", lambda: 1)
        await memory.close()
        await memory.open()
        claim = await memory.dedupe.claim("k", lease=LEASE)
        await until(lambda: ends(database_url) > claim.expires_at)
