"""Run resets and deletions beside a member's open statement: no event stays claimed unseen.

The member's statement is run in a transaction that is held open: what it has done shows only after
the reset has begun.
"""

from __future__ import annotations

import threading
import time

import pytest

from pgmem import Event, Memory
from pgmem.errors import HistoryRewritten, LeaseLost
from pgmem.events.filter import EventFilter
from pgmem.groups import claim_ops as claims
from pgmem.groups import delivery_ops as deliveries
from pgmem.groups import ops as groups
from tests.support.database import sql
from tests.support.groups import fall_due, lapse
from tests.support.subscriptions import waits_for_a_row

OPEN = (
    "SELECT (SELECT count(*) FROM pgmem.batches WHERE positions <> '{}'),"
    " (SELECT count(*) FROM pgmem.delayed)"
)


def held(delivery):
    return [deliveries.HeldDelivery(delivery.event.position, delivery._batch, delivery.token)]


def steps(ordered_by):
    """Return the steps of a member, each with the setup that gives it work."""
    group = groups.Group("g", EventFilter(), ordered_by)
    member = claims.ClaimRequest(group, "late", 1, 30.0, lambda row: row)

    def given_back(url, batch):
        batch[0].nack(delay=60)
        fall_due(url)
        return member.claim_due()

    def ran_out(url, _):
        lapse(url)
        return claims.expire(group)

    return {
        "claim": lambda url, batch: member.claim(6),
        "claim_due": given_back,
        "expire": ran_out,
        "nack": lambda url, batch: deliveries.nack(group, held(batch[0])),
    }


def run_during(memory, url, op, what):
    """Run `what` in a thread while the op is executed and not committed. Return its error."""
    errors = []

    def run():
        try:
            what()
        except Exception as error:  # The assertion below shows it.
            errors.append(error)

    with memory.transaction() as tx:
        tx._executor.execute(op)
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 20
        while thread.is_alive() and not waits_for_a_row(url):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    thread.join()
    assert errors == []


@pytest.mark.parametrize("ordered_by", [None, "stream"])
@pytest.mark.parametrize("step", ["claim", "claim_due", "expire", "nack"])
class TestConcurrentReset:
    @pytest.fixture
    def batch(self, memory, ordered_by):
        """A group that has handed out three of six events, with an empty batch beside."""
        memory.events.append("s", [Event(type="t") for _ in range(6)])
        group = memory.groups.create("g", ordered_by=ordered_by)
        first, second = group.read("x", 1), group.read("x", 1)
        group.ack(first + second)
        return group.read("a", 2)

    def test_a_reset_fences_it_off(self, memory, database_url, batch, step, ordered_by):
        op = steps(ordered_by)[step](database_url, batch)
        group = memory.groups.get("g")
        run_during(memory, database_url, op, lambda: group.reset(0))
        assert sql(database_url, OPEN) == [(0, 0)]
        with pytest.raises(LeaseLost):
            group.ack(batch)
        assert [one.event.position for one in group.read("b")] == [1, 2, 3, 4, 5, 6]

    def test_a_deletion_leaves_nothing(self, memory, database_url, batch, step, ordered_by):
        op = steps(ordered_by)[step](database_url, batch)
        run_during(memory, database_url, op, lambda: memory.groups.delete("g"))
        assert sql(database_url, OPEN) == [(0, 0)]
        assert sql(database_url, "SELECT count(*) FROM pgmem.batches") == [(0,)]


@pytest.mark.parametrize("ordered_by", [None, "stream"])
@pytest.mark.parametrize("step", ["claim", "claim_due", "expire"])
@pytest.mark.parametrize("rewrite", ["timeline = timeline + 1", "system_identifier = 1"])
def test_in_another_history_a_step_changes_nothing(memory, database_url, step, ordered_by, rewrite):
    """Run each step alone, because a member detects the other history at its first one."""
    memory.events.append("s", [Event(type="t") for _ in range(6)])
    group = memory.groups.create("g", ordered_by=ordered_by)
    op = steps(ordered_by)[step](database_url, group.read("a", 2))
    sql(database_url, f"UPDATE pgmem.groups SET {rewrite}")
    tables = [
        f"SELECT * FROM pgmem.{t} AS t ORDER BY t::text" for t in ("groups", "batches", "delayed")
    ]
    before = [sql(database_url, table) for table in tables]
    if step == "expire":
        assert memory._executor.execute(op) == 0
    else:
        with pytest.raises(HistoryRewritten):
            memory._executor.execute(op)
    assert [sql(database_url, table) for table in tables] == before


def test_requeue_during_a_claim_delivers_nothing_twice(memory, database_url):
    """After a reset to before it, the claim takes the event of the dead letter."""
    memory.events.append("s", [Event(type="t") for _ in range(2)])
    group = memory.groups.create("g")
    group.read("a", 1)[0].dead_letter()
    group.reset(0)
    member = claims.ClaimRequest(groups.Group("g", EventFilter()), "late", 1, 30.0, lambda row: row)
    requeued = []
    run_during(
        memory,
        database_url,
        member.claim(2),
        lambda: requeued.append(group.requeue()),
    )
    assert requeued == [0]
    assert sql(database_url, OPEN) == [(1, 0)]


def test_members_of_two_memories_at_resets(database_url):
    """Reset at random moments: each event is acknowledged, and none has two members."""
    with Memory(database_url, pool=4) as memory, Memory(database_url, pool=4) as other:
        memory.events.append("s", [Event(type="t") for _ in range(60)])
        shared = [one.groups.create("g", exist_ok=True) for one in (memory, other)]
        errors = []

        def work(number):
            group, quiet = shared[number % 2], 0
            while quiet < 8:
                try:
                    batch = group.read(f"m{number}", 3, timeout=0.05)
                    quiet = 0 if batch else quiet + 1
                    if batch and number == 0:
                        group.nack(batch, counted=False)
                    elif batch:
                        group.ack(batch)
                except LeaseLost:
                    continue
                except Exception as error:  # The assertion below shows it.
                    errors.append(error)
                    return

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for n in range(10):
            time.sleep(0.03)
            shared[n % 2].reset(n)
        for thread in threads:
            thread.join()
    assert errors == []
    assert sql(database_url, OPEN) == [(0, 0)]


def test_requeue_during_a_reset_to_before_it_delivers_nothing_twice(memory, database_url):
    memory.events.append("s", [Event(type="t") for _ in range(2)])
    group = memory.groups.create("g")
    group.read("a", 1)[0].dead_letter()
    requeued = []
    op = groups.reset(groups.Group("g", EventFilter()), 0)
    run_during(memory, database_url, op, lambda: requeued.append(group.requeue()))
    assert requeued == [0]
    assert [one.event.position for one in group.read("b")] == [1, 2]


@pytest.mark.parametrize("ordered_by", [None, "stream"])
@pytest.mark.parametrize("step", ["claim", "claim_due"])
def test_two_at_the_same_step_do_not_get_the_same(memory, database_url, step, ordered_by):
    """Start the second statement before the first commits."""
    memory.events.append("s", [Event(type="t") for _ in range(6)])
    group = memory.groups.create("g", ordered_by=ordered_by)
    op = steps(ordered_by)[step](database_url, group.read("a", 2))
    second = []
    run_during(memory, database_url, op, lambda: second.append(memory._executor.execute(op)))
    mine = {row[0] for row, *_ in second[0].events}
    tokens = sql(database_url, "SELECT unnest(positions), token FROM pgmem.batches")
    assert len(tokens) == len({position for position, _ in tokens}), "two have one event"
    assert all((position, second[0].token) in tokens for position in mine)


@pytest.mark.parametrize("ordered_by", [None, "stream"])
def test_two_that_take_back_a_lost_batch_do_it_once(memory, database_url, ordered_by):
    """Start the second statement before the first commits."""
    memory.events.append("s", [Event(type="t") for _ in range(6)])
    group = memory.groups.create("g", ordered_by=ordered_by)
    group.read("a", 2)
    lapse(database_url)
    op = claims.expire(groups.Group("g", EventFilter(), ordered_by))
    second = []
    run_during(memory, database_url, op, lambda: second.append(memory._executor.execute(op)))
    assert second == [0]
    assert [(one.position, one.delayed) for one in group.pending()] == [(1, True), (2, True)]
