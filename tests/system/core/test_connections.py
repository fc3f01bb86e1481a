"""Connections that break: what is repeated, what is not, and what the caller is told."""

from __future__ import annotations

import os
import threading

import psycopg
import pytest

from pgmem import Event, Memory, migrate
from pgmem.errors import (
    NotOpen,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
    VersionConflict,
)
from tests.support.cutting import CuttingRelay


@pytest.fixture
def relay(database_url, tmp_path):
    relay = CuttingRelay(database_url, tmp_path)
    yield relay
    relay.close()


@pytest.fixture
def cut(relay):
    """Open a memory behind the relay. Its next statement with MARK loses its answer."""
    with Memory(relay.url, pool=1) as memory:
        memory.state.put("k", 1)
        relay.cut_once_after(b"MARK")
        yield memory
    assert relay.cuts == 1, "the connection was not cut: the test shows nothing"


MARKED = Event(type="t", payload="MARK")


def test_append_with_a_lost_answer_is_not_repeated(cut, memory):
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        cut.events.append("s", MARKED)
    assert memory.events.count("s") == 1
    cut.events.append("s", MARKED)
    assert memory.events.count("s") == 2


def test_batch_with_a_lost_answer_is_not_repeated(cut, memory):
    with pytest.raises(OutcomeUnknown):
        cut.events.append("s", [MARKED] * 3)
    assert memory.events.count("s") == 3


def test_put_with_a_lost_answer_is_not_repeated(cut, memory):
    with pytest.raises(OutcomeUnknown):
        cut.state.put("k", "MARK")
    assert memory.state.get("k").version == 2


def test_append_with_an_idempotency_key_is_repeated_and_happens_once(cut, memory):
    receipt = cut.events.append("s", MARKED, idempotency_key="k")
    assert receipt.duplicate
    (event,) = memory.events.read("s")
    assert event.position == receipt.position


def test_compare_and_set_that_took_effect_unseen_is_no_conflict(cut, memory):
    """Raise no VersionConflict when the repeat finds the first execution's own write."""
    with pytest.raises(OutcomeUnknown) as error:
        cut.state.compare_and_set("k", "MARK", expected_version=1)
    assert isinstance(error.value.__cause__, VersionConflict)
    assert memory.state.get("k").version == 2


def test_create_that_took_effect_unseen_is_no_conflict(cut, memory):
    with pytest.raises(OutcomeUnknown):
        cut.state.create("new", "MARK")
    assert memory.state.get("new").version == 1


def test_versioned_append_that_took_effect_unseen_is_no_conflict(cut, memory):
    with pytest.raises(OutcomeUnknown):
        cut.events.append("v", MARKED, expected_version=0)
    assert memory.events.version("v") == 1


def test_update_does_not_apply_its_function_twice(cut, memory):
    with pytest.raises(OutcomeUnknown):
        cut.state.update("k", lambda value: f"MARK {value}")
    assert memory.state.get("k").value == "MARK 1"


def test_claim_and_completion_are_repeated(cut, relay, memory):
    claim = cut.dedupe.claim("MARK")
    assert claim.acquired
    relay.cut_once_after(b"MARK")
    cut.dedupe.complete(claim, 5)
    assert memory.dedupe.claim("MARK").result == 5
    relay.cuts -= 1


def test_reads_are_repeated(cut):
    assert cut.state.get("MARK") is None


def test_transaction_with_a_lost_answer_to_commit(relay, memory):
    def commit(behind):
        with behind.transaction() as tx:
            tx.state.put("k", 2)
            relay.cut_once_after(b"COMMIT")

    with Memory(relay.url, pool=1) as behind:
        behind.state.put("k", 1)
        with pytest.raises(OutcomeUnknown, match="during the commit"):
            commit(behind)
    assert relay.cuts == 1
    assert memory.state.get("k").value == 2


async def test_connections_closed_while_idle_are_replaced_unnoticed(form):
    """Append on a new connection: nothing was sent on the broken ones."""
    async with form.memory(pool=(3, 3)) as memory:
        await memory.state.put("k", 1)
        with psycopg.connect(form.url, autocommit=True) as admin:
            for _ in range(3):
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await memory.events.append("s", Event(type="t"))
        assert await memory.events.count("s") == 3


async def test_no_free_connection_is_told_in_bounded_time(form):
    async with form.memory(pool=1, timeout=0.3) as memory:
        async with memory.transaction():
            with pytest.raises(Unavailable, match="pool of 1"):
                await memory.state.get("k")
        assert await memory.state.get("k") is None


def test_pool_that_cannot_be_filled_is_told_and_leaves_nothing(database_url):
    threads = threading.active_count()
    with psycopg.connect(database_url, autocommit=True) as admin:
        role = f"limited_{database_url.split('dbname=')[1].split()[0]}"
        admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
        try:
            migrate.grant(database_url, reader=role)
            url = psycopg.conninfo.make_conninfo(database_url, user=role)
            with pytest.raises(Unavailable, match="Lower pool="):
                Memory(url, pool=(3, 3), timeout=2).open()
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")
    assert threading.active_count() == threads


def test_a_forked_child_must_open_its_own(memory):
    memory.state.put("k", 1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            memory.state.get("k")
            said = b"no error"
        except NotOpen as error:
            said = str(error).encode()
        os.write(write, said)
        os._exit(0)
    os.waitpid(child, 0)
    assert b"fork" in os.read(read, 1000)
    assert memory.state.get("k").value == 1


async def test_the_database_refuses_to_change_or_remove_an_event(both, database_url):
    await both.events.append("s", Event(type="t"))
    with psycopg.connect(database_url, autocommit=True) as superuser:
        for statement in (
            "UPDATE pgmem.events SET type = 'x'",
            "DELETE FROM pgmem.events",
            "TRUNCATE pgmem.events",
            "TRUNCATE pgmem.events, pgmem.state CASCADE",
        ):
            with pytest.raises(psycopg.Error, match="append-only"):
                superuser.execute(statement)
    assert await both.events.count() == 1


async def test_role_without_privileges_is_told_so(form):
    name = psycopg.conninfo.conninfo_to_dict(form.url)["dbname"]
    role = f"reader_{name}"
    with psycopg.connect(form.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        try:
            migrate.grant(form.url, reader=role)
            url = psycopg.conninfo.make_conninfo(form.url, user=role)
            async with form.memory() as writer, form.memory(url) as reader:
                await writer.state.put("k", 1)
                assert (await reader.state.get("k")).value == 1
                assert len(await reader.events.read()) == 1
                for refused in (
                    reader.state.put("k", 2),
                    reader.events.append("s", Event(type="t")),
                    reader.dedupe.claim("k"),
                ):
                    with pytest.raises(PermissionDenied, match="grant"):
                        await refused
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


def test_claim_of_a_group_with_a_lost_answer_is_made_anew(cut, memory):
    """Take back what the first one claimed, and claim again."""
    memory.events.append("work", [Event(type="t", payload=n) for n in range(6)])
    group = cut.groups.create("g", stream="work")
    assert [(one.event.payload, one.attempts) for one in group.read("MARK", 2)] == [(0, 1), (1, 1)]
    assert len(group.pending()) == 2


@pytest.mark.parametrize("batches", [1, 2])
def test_ack_with_the_next_claim_with_a_lost_answer(relay, memory, batches):
    memory.events.append("work", [Event(type="t", payload=n) for n in range(6)])
    with Memory(relay.url, pool=1) as behind:
        group = behind.groups.create("g", stream="work")
        held = [one for _ in range(batches) for one in group.read("MARK", 1)]
        relay.cut_once_after(b"MARK")
        then = group.read("MARK", 2, ack=held)
        assert [(one.event.payload, one.attempts) for one in then] == [
            (batches, 1),
            (batches + 1, 1),
        ]
        assert [one.position for one in group.pending()] == [one.event.position for one in then]
    assert relay.cuts == 1
