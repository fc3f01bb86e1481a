"""Consumer groups: their position, and what is pending, come along; and go back."""

from __future__ import annotations

import random

import psycopg
import pytest
import redis

from pgmem import Event
from pgmem.errors import LeaseLost
from pgmem.redis.importing import groups
from pgmem.redis.importing.source import RedisSource
from pgmem.redis.importing.verify import compare
from tests.support.processes import seed
from tests.system.redis.importing.support import fill, published

STREAM = "agent:events"
NAME = f"{STREAM}:billing"


def deliver(source, count, consumer="a", group="billing", stream=STREAM):
    """Hand entries out to a consumer; gives their ids."""
    found = source.xreadgroup(group, consumer, {stream: ">"}, count=count)
    return [identity for _, entries in found for identity, _ in entries]


def grouped(source, entries=10, delivered=4, *, group="billing", start="0"):
    """Make a stream with a group, and deliver some entries. Return their ids."""
    fill(source, entries)
    source.xgroup_create(STREAM, group, start)
    return deliver(source, delivered, group=group) if delivered else []


def opened(memory, name=NAME):
    """Return the attempts of the open events of a group, by number."""
    events = {event.position: event.payload["n"] for event in memory.events.read(STREAM, limit=999)}
    pending = memory.groups.get(name).pending(999)
    return {events[one.position]: one.attempts for one in pending}


def worked(memory, count=100, name=NAME):
    """Read and acknowledge everything. Return numbers and attempts."""
    group = memory.groups.create(name, stream=STREAM, exist_ok=True)
    found = []
    while deliveries := group.read("worker", limit=count):
        found += [(one.event.payload["n"], one.attempts) for one in deliveries]
        group.ack(deliveries)
    return found


def pending(source, group="billing"):
    """Return the deliveries of the pending entries in Redis, by number."""
    found = {}
    for one in source.xpending_range(STREAM, group, "-", "+", 999):
        ((_, fields),) = source.xrange(STREAM, one["message_id"], one["message_id"])
        found[int(fields[b"payload"].split(b":")[1].rstrip(b"}"))] = one["times_delivered"]
    return found


def test_position_and_pending_entries_come_along(source, importing, memory):
    ids = grouped(source)
    source.xack(STREAM, "billing", ids[1])
    source.xclaim(STREAM, "billing", "b", 0, [ids[2]])  # delivered a second time
    report = importing.run()
    assert report.complete
    assert report.groups == {NAME: 3}
    assert opened(memory) == {1: 1, 3: 2, 4: 1}
    (first, *_) = memory.groups.get(NAME).pending()
    assert first.error == "pending in Redis, with a"
    # Pending entries are delivered once more and counted, then new ones.
    assert sorted(worked(memory)) == [(1, 2), (3, 3), (4, 2), *((n, 1) for n in range(5, 11))]


@pytest.mark.parametrize(("start", "rest"), [("0", 10), ("$", 0), ("6-0", 4)])
def test_a_group_without_pending_entries_goes_on_where_it_stands(
    source, importing, memory, start, rest
):
    grouped(source, delivered=0, start=start)
    importing.run()
    assert [n for n, _ in worked(memory)] == list(range(11 - rest, 11))


def test_a_group_imported_again_follows_the_one_in_redis(source, importing, memory):
    ids = grouped(source)
    importing.run()
    source.xack(STREAM, "billing", *ids[:3])
    fill(source, 5, first=11)
    deliver(source, 3, "b")
    found = importing.compared()
    assert found.equal
    assert found.same == 15 + 5
    assert opened(memory) == {4: 1, 5: 1, 6: 1, 7: 1}
    source.xgroup_setid(STREAM, "billing", "2-0")
    source.xack(STREAM, "billing", *ids, "5-0", "6-0", "7-0")
    importing.run()
    assert [n for n, _ in worked(memory)] == list(range(3, 16))


def test_a_group_that_members_have_worked_in_is_left_and_listed(source, importing, memory):
    ids = grouped(source)
    importing.run()
    (mine,) = memory.groups.get(NAME).read("early", limit=1)
    source.xack(STREAM, "billing", *ids)
    report = importing.run()
    assert not report.complete
    ((kind, key, name, why),) = importing.refused()
    assert (kind, key, name) == ("group", STREAM, "billing")
    assert "the group 'agent:events:billing' of pgmem was left as it is" in why
    mine.ack()
    assert sorted(opened(memory)) == [2, 3, 4]
    assert importing.run().groups == {}


def test_a_group_that_was_opened_before_keeps_its_order_and_attempts(source, importing, memory):
    memory.groups.create(NAME, stream=STREAM, ordered_by="account", max_attempts=3)
    for n, account in enumerate("xyxy", 1):
        payload = f'{{"n": {n}, "account": "{account}"}}'
        source.xadd(STREAM, published(n, payload=payload), id=f"{n}-0")
    source.xgroup_create(STREAM, "billing", "0")
    ids = deliver(source, 3)
    source.xack(STREAM, "billing", ids[1])
    importing.run()
    group = memory.groups.get(NAME)
    assert group.info().max_attempts == 3
    (first,) = group.read("one", limit=1)
    assert first.event.payload["n"] == 1
    # 3 is of the account that `one` is at: another member gets what comes after it.
    (second,) = group.read("two", limit=5)
    assert second.event.payload["n"] == 4
    first.ack()
    (third,) = group.read("one", limit=5)
    assert third.event.payload["n"] == 3


def test_a_group_of_that_name_that_follows_something_else_is_left(source, importing, memory):
    memory.groups.create(NAME, stream="other")
    grouped(source)
    assert not importing.run().complete
    assert memory.groups.get(NAME).info().selection == {"streams": ["other"]}
    assert [line[0] for line in importing.refused()] == ["group"]


def test_a_pending_entry_that_was_trimmed_is_listed(source, importing, memory):
    grouped(source)
    source.xtrim(STREAM, minid="3-0", approximate=False)
    report = importing.run()
    assert report.refused == 2
    assert [line[:3] for line in importing.refused()] == [
        ("pending", STREAM, "1-0"),
        ("pending", STREAM, "2-0"),
    ]
    assert importing.raw()[0] == [b"billing", b"a", b"1"]
    assert opened(memory) == {3: 1, 4: 1}
    found = importing.compared()
    assert (found.equal, found.refused) == (True, 2)


def test_a_group_with_an_invalid_name_is_listed(source, importing, memory):
    grouped(source, group=b"\xff", delivered=0)
    source.xgroup_create(STREAM, "g" * 600, "0")
    assert importing.run().refused == 2
    unnamed, long = sorted(why for *_, why in importing.refused())
    assert unnamed == "the name of the group is not UTF-8"
    assert long.startswith("the name of the group, 'agent:events:ggg")
    assert memory.groups.list() == []


def test_a_dry_run_makes_no_group(source, importing, memory):
    grouped(source)
    importing.run(dry_run=True)
    assert memory.groups.list() == []
    assert importing.refused() == []


def test_entries_delivered_meanwhile_are_imported_first(source, importing, memory):
    grouped(source)
    with importing.opened() as importer:
        importer.begin()
        importer.drain_streams()
        fill(source, 5, first=11)
        deliver(source, 9)
        importer.import_groups()
    assert sorted(opened(memory)) == list(range(1, 14))
    importing.run()
    assert [n for n, attempts in worked(memory) if attempts == 1] == [14, 15]


def test_entries_that_are_given_while_a_group_is_read_are_not_there_twice(
    source, importing, memory, monkeypatch
):
    grouped(source)
    call = RedisSource.call

    def meanwhile(self, *command):
        answer = call(self, *command)
        if command[:2] == ("XINFO", "GROUPS"):
            deliver(source, 3)
        return answer

    monkeypatch.setattr(RedisSource, "call", meanwhile)
    importing.run()
    assert sorted(worked(memory)) == [
        *((n, 2) for n in range(1, 5)),
        *((n, 1) for n in range(5, 11)),
    ]


def test_many_groups_and_entries_in_many_steps(source, importing, memory, monkeypatch):
    rng = random.Random(seed())
    monkeypatch.setattr(groups, "STEP", 7)
    monkeypatch.setattr(groups, "PAGE", 5)
    fill(source, 200)
    names = ["one", "two", "three"]
    for name in names:
        source.xgroup_create(STREAM, name, "0")
    for _ in range(4):
        expected = {}
        for name in names:
            for consumer in "ab":
                deliver(source, rng.randrange(1, 20), consumer, name)
            held = [one["message_id"] for one in source.xpending_range(STREAM, name, "-", "+", 999)]
            done = rng.sample(held, len(held) // 2)
            source.xack(STREAM, name, *done)
            again = [identity for identity in held if identity not in done][::3]
            source.xclaim(STREAM, name, "c", 0, again)
            expected[name] = pending(source, name)
        found = importing.compared()
        assert found.equal, found.examples
        for name in names:
            assert opened(memory, f"{STREAM}:{name}") == expected[name]


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        ("DELETE FROM pgmem.delayed WHERE position = 2", "missing"),
        ("UPDATE pgmem.delayed SET attempts = 7 WHERE position = 2", "different"),
        ("UPDATE pgmem.delayed SET position = 9 WHERE position = 2", "missing"),
        ("DELETE FROM pgmem.groups", "missing"),
    ],
)
def test_a_difference_is_found(source, importing, database_url, harm, kind):
    grouped(source)
    assert importing.compared().equal
    with importing.opened() as importer:
        importer.begin()
        importer.drain_streams()
        with psycopg.connect(database_url, autocommit=True) as server:
            server.execute(harm)
        found = compare(importer)
    assert not found.equal
    assert getattr(found, kind) >= 1, found
    assert NAME in found.examples[0]


def test_a_cut_over_keeps_old_members_out_and_imports_the_last_state(source, importing, memory):
    ids = grouped(source)
    importing.run()
    source.xack(STREAM, "billing", ids[0])
    deliver(source, 2, "late")
    _, found = importing.cut_over(verify=True)
    assert found.equal
    for late in (
        lambda: source.xack(STREAM, "billing", ids[1]),
        lambda: source.xreadgroup("billing", "a", {STREAM: ">"}),
    ):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            late()
    done = worked(memory)
    assert sorted(n for n, _ in done) == list(range(2, 11))
    # Once more, for what came late: the groups are the members' now.
    report, found = importing.cut_over(verify=True)
    assert (report.complete, found.equal) == (True, True)
    assert worked(memory) == []
    fill(source, 3, "late")
    source.xgroup_create("late", "g", "2-0")
    importing.cut_over()
    assert memory.groups.get("late:g").lag() == 1


def test_the_way_back_of_a_group(source, importing, memory):
    """Check that Redis has the position, the open events and the attempts of pgmem."""
    ids = grouped(source)
    source.xack(STREAM, "billing", ids[0])
    importing.cut_over()
    for n in range(11, 15):
        memory.events.append(STREAM, Event(type="t", payload={"n": n}))
    group = memory.groups.get(NAME)
    by_number = {one.event.payload["n"]: one for one in group.read("m", limit=3)}
    by_number |= {one.event.payload["n"]: one for one in group.read("m", limit=8)}
    assert sorted(by_number) == list(range(2, 13))
    group.ack([one for n, one in by_number.items() if n not in (3, 7, 8, 12)])
    by_number[3].nack(error="later")
    assert importing.reverse() == {"events": 4, "deleted": 0, "groups": 1}
    assert pending(source) == {3: 2, 7: 1, 8: 1, 12: 1}
    assert numbers_of(source, deliver(source, 99, "new")) == [13, 14]
    with pytest.raises(LeaseLost):
        by_number[7].ack()
    # Forth again, with what was written back among what is pending.
    source.xack(STREAM, "billing", "7-0")
    found = importing.compared()
    assert found.equal, found.examples
    assert opened(memory) == {3: 2, 8: 1, 12: 1, 13: 1, 14: 1}
    importing.cut_over()
    assert sorted(n for n, _ in worked(memory)) == [3, 8, 12, 13, 14]
    assert importing.refused() == []


def numbers_of(source, ids):
    entries = [source.xrange(STREAM, identity, identity)[0][1] for identity in ids]
    return [int(fields[b"payload"].split(b":")[1].rstrip(b"}")) for fields in entries]


def test_a_group_that_stands_still_passes_no_refused_entry_again_on_its_way_back(source, importing):
    fill(source, 2)
    source.xadd(STREAM, published(0, payload="{"), id="3-0")  # refused
    source.xgroup_create(STREAM, "billing", "0")
    source.xack(STREAM, "billing", *deliver(source, 3))
    importing.cut_over()
    importing.reverse()
    assert deliver(source, 9) == []
    assert pending(source) == {}


def test_entries_written_back_are_not_delivered_again(source, importing, memory):
    """Behind it comes only what cannot be brought in: the group stands there."""
    grouped(source, delivered=0)
    importing.cut_over()
    memory.events.append(STREAM, Event(type="t", payload={"n": 11}))
    importing.reverse()
    source.xadd(STREAM, published(0, payload="{"))  # refused
    source.xack(STREAM, "billing", *deliver(source, 99))
    importing.cut_over()
    assert worked(memory) == []
