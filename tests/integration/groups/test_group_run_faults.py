"""Failing leases, members, handlers and connections in `group.run`."""

from __future__ import annotations

import time
from importlib import import_module

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import NotFound, Unavailable
from tests.support.both import module_name
from tests.support.group_run import GroupRun, fill, idle

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    return GroupRun(request.param, database_url)


def test_what_became_anothers_under_way_is_lost_and_not_failed(life, database_url):
    """Refuse the acknowledgement. The event is not handled again here, another member has it."""
    fill(database_url, 1)
    taken = []
    with psycopg.connect(database_url, autocommit=True) as server:

        def let_go(delivery):
            taken.append(delivery)
            server.execute("DELETE FROM pgmem.batches")
            server.execute(
                "INSERT INTO pgmem.batches (group_name, positions, expires_at) "
                "VALUES ('g', '{1}', clock_timestamp() + interval '1 hour')"
            )

        def handle(delivery, tx):
            let_go(delivery)

        async def ahandle(delivery, tx):
            let_go(delivery)

        chosen = handle if life.name == "sync" else ahandle
        ran = life.run(chosen, lambda memory: bool(taken), once="transaction")
    assert ran == (0, 0, 1)


def taking(life, monkeypatch, before):
    """Call `before(member)` before each read."""
    name = "AsyncGroup" if life.name == "async" else "Group"
    take = getattr(import_module(module_name(life.name, "groups.group")), name)._read

    def taken(self, member, *args, **options):
        before(member)
        return take(self, member, *args, **options)

    monkeypatch.setattr(f"{module_name(life.name, 'groups.group')}.{name}._read", taken)


def test_a_server_that_is_away_for_a_while_does_not_end_it(life, database_url, monkeypatch, caplog):
    monkeypatch.setattr(f"{module_name(life.name, 'groups.member')}.RETRY_FIRST", 0.01)
    faults = [Unavailable("away"), psycopg.OperationalError("cut"), OSError("no way")]

    def away(consumer):
        if faults:
            raise faults.pop()

    taking(life, monkeypatch, away)
    fill(database_url, 5)
    assert life.run(lambda delivery: None, idle) == (5, 0, 0)
    assert caplog.text.count("cannot read and tries again") == 1


def test_where_one_member_fails_the_others_end_too(life, database_url, monkeypatch):
    monkeypatch.setattr(f"{module_name(life.name, 'groups.member')}.IDLE_READ", 0.05)
    failed, late = [], []

    def fail(consumer):
        if consumer.endswith("#1"):
            failed.append(consumer)
            raise ZeroDivisionError
        if failed:
            late.append(consumer)

    taking(life, monkeypatch, fail)
    fill(database_url, 1)
    with pytest.raises(ZeroDivisionError):
        life.run(
            lambda delivery: None,
            lambda memory: bool(failed) and time.sleep(1) is None,
            concurrency=3,
        )
    assert len(late) <= 10, "in the second after the failure, two members would read 40 times"


class Struck(BaseException):
    """An exception that no error handler catches."""


def test_what_was_not_begun_when_it_was_cancelled_is_given_back(life, database_url):
    fill(database_url, 5)
    begun = []

    def handle(delivery):
        begun.append(delivery.event.position)
        if len(begun) == 2:
            raise Struck

    with pytest.raises(Struck):
        life.run(handle, lambda memory: len(begun) == 2, lease=60)
    with Memory(database_url) as memory:
        group = memory.groups.get("g")
        rest = []
        while len(rest) < 4:  # Prefetched events are its own for a moment.
            rest += group.read("next", 100, timeout=10)
    assert sorted((delivery.event.position, delivery.attempts) for delivery in rest) == [
        (2, 2),
        (3, 1),
        (4, 1),
        (5, 1),
    ]


def test_a_group_that_is_gone_ends_it_with_an_error(life, database_url):
    fill(database_url, 1)
    gone = []

    def handle(delivery):
        with Memory(database_url) as memory:
            gone.append(memory.groups.delete("g"))

    with pytest.raises(NotFound, match="no group 'g'"):
        life.run(handle, lambda memory: bool(gone) and time.sleep(1.5) is None, concurrency=2)
