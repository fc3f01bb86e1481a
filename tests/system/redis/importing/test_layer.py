"""The published layer continues on `pgmem.redis` with the data that was imported from Redis."""

from __future__ import annotations

import json

import psycopg
import pytest

from benchmarks.arms import published
from pgmem.redis import SharedMemoryLayer


class Payments:
    def _do_actual_work(self, event):
        return {"status": "ok", "amount": event["amount"]}


class OnRedis(Payments, published.Published):
    pass


class OnPgmem(Payments, SharedMemoryLayer):
    pass


@pytest.fixture
def before(source, source_server, database_url):
    """The layer that has worked on Redis."""
    with psycopg.connect(database_url) as owner:
        layer = OnRedis(source, database=owner)
        for n in range(30):
            layer.write_event("validator", "payment.validated", {"id": f"p-{n}", "amount": n})
        for n in range(3):
            layer.process_event({"id": f"p-{n}", "amount": n})
        layer.update_with_version("account:1", lambda _: {"balance": 100, "currency": "VND"})
        yield layer


def payloads(reply):
    return [json.loads(fields[b"payload"]) for _, entries in reply for _, fields in entries]


def test_the_layer_continues_with_imported_data(source, before, importing, memory, database_url):
    assert importing.run().complete
    after = OnPgmem(database_url)
    try:
        # Events, in their order, and what is written now behind them.
        assert payloads(after.read_events("0")) == payloads(before.read_events("0"))
        after.write_event("validator", "payment.validated", {"id": "p-30", "amount": 30})
        assert [one["amount"] for one in payloads(after.read_events("0"))] == list(range(31))
        # The latest state.
        assert before.get_latest_state("validator", "payment.validated")["amount"] == 29
        assert after.get_latest_state("validator", "payment.validated")["amount"] == 30
        # Work that was done is not done again; other work is.
        done = after.process_event({"id": "p-1", "amount": 1})
        assert done == before.process_event({"id": "p-1", "amount": 1})
        assert done["status"] == "skipped"
        assert after.process_event({"id": "p-9", "amount": 9}) == {"status": "ok", "amount": 9}
        # A versioned update goes on from the version that it had.
        found = []
        after.update_with_version(
            "account:1", lambda current: found.append(current) or {"balance": 90}
        )
        assert found == [source.hgetall("resource:account:1")]
        assert (found[0][b"balance"], found[0][b"version"]) == (b"100", b"1")
        assert memory.state.get("resource:account:1").value["version"] == "2"
    finally:
        after.close()
