"""Move a memory to another cluster, as docs/howto/upgrading.md says."""

from __future__ import annotations

import subprocess

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmem import EmbeddedPostgres, Event, Memory, migrate
from pgmem.admin.histories import accept, show
from pgmem.admin.sequences import sync_sequences
from pgmem.errors import HistoryRewritten, SchemaError
from tests.support.waiting import wait_until

SETTINGS = {"wal_level": "logical", "fsync": "off"}


@pytest.fixture
def servers():
    with EmbeddedPostgres(settings=SETTINGS) as old, EmbeddedPostgres(settings=SETTINGS) as new:
        migrate.upgrade(old.url)
        with Memory(old.url) as memory:
            memory.events.append("s", [Event(type="t", payload=n) for n in range(60)])
            with memory.events.subscribe(durable="audit") as reader:
                reader.commit(reader.receive(40)[-1])
            group = memory.groups.create("g")
            first, second = group.read("a", 2, lease=600)
            first.nack()
            second.ack()
            memory.leases.acquire("job", ttl=600)
        yield old.url, new.url


def everything_goes_on(old: str, new: str) -> None:
    """Accept the old cluster's positions, and read, claim and append on the new server."""
    assert migrate.check(new) == []
    with Memory(new) as memory, pytest.raises(HistoryRewritten):
        memory.events.subscribe(durable="audit").receive(timeout=5)
    accepted = accept(new, from_cluster=show(old).present.system_identifier)
    assert [stored.name for stored in accepted] == ["g", "audit"]
    with Memory(new) as memory:
        receipt = memory.events.append("s", Event(type="t", payload=60))
        assert receipt.position > 60
        with memory.events.subscribe(durable="audit") as reader:
            assert [event.payload for event in reader.receive(timeout=5)] == list(range(40, 61))
        group = memory.groups.get("g")
        claimed = group.read("b", 1) + group.read("b", 100)
        assert [delivery.event.payload for delivery in claimed] == [0, *range(2, 61)]
        with Memory(old) as before:
            token = before.leases.acquire("later", ttl=600).token
        assert memory.leases.acquire("later", ttl=600).token > token


def test_dump_and_restore(servers, tmp_path):
    old, new = servers
    dump = tmp_path / "pgmem.dump"
    with psycopg.connect(old) as connection:
        query = "SELECT setting FROM pg_config WHERE name = 'BINDIR'"
        folder = connection.execute(query).fetchone()[0]
    subprocess.run(
        [f"{folder}/pg_dump", "--format=custom", "--schema=pgmem", f"--file={dump}", old],
        check=True,
    )
    subprocess.run([f"{folder}/pg_restore", f"--dbname={new}", dump], check=True)
    everything_goes_on(old, new)


def test_logical_replication(servers):
    old, new = servers
    migrate.upgrade(new)
    place = conninfo_to_dict(old)
    with (
        psycopg.connect(new, autocommit=True) as there,
        psycopg.connect(old, autocommit=True) as here,
    ):
        there.execute("TRUNCATE pgmem.meta, pgmem.pgmem_version")
        here.execute("CREATE PUBLICATION move FOR TABLES IN SCHEMA pgmem")
        there.execute(
            f"CREATE SUBSCRIPTION move CONNECTION 'host={place['host']} port={place['port']} "
            f"user={place['user']} dbname={place['dbname']}' PUBLICATION move"
        )
        wait_until(
            lambda: there.execute(
                "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
            ).fetchone()[0]
        )
        there.execute("DROP SUBSCRIPTION move")
    with Memory(new) as memory:
        assert len(memory.events.read("s", reverse=True)) == 60
        with pytest.raises(SchemaError, match="pgmem migrate sync-sequences"):
            memory.events.append("s", Event(type="t"))
    assert "events_position_seq" in [move.name for move in sync_sequences(new)]
    everything_goes_on(old, new)
