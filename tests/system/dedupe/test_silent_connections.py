"""Claims while the connections of their holder go silent."""

from __future__ import annotations

import asyncio

import pytest

from pgmem import AsyncMemory
from pgmem.errors import LeaseHeld
from tests.support.relay import Relay


async def test_claim_over_silent_connections(form, database_url):
    # Renewals use a new connection, however many of the known ones are silent.
    with Relay(database_url) as relay:
        async with (
            form.memory(relay.url, timeout=1, pool=(4, 5)) as memory,
            AsyncMemory(database_url) as other,
        ):
            claim = await memory.dedupe.claim("k", lease=2.4)
            relay.silence()
            await asyncio.sleep(2.6)
            with pytest.raises(LeaseHeld):
                await other.dedupe.claim("k")
            await memory.dedupe.complete(claim, 1)
            assert (await other.dedupe.claim("k")).result == 1
