"""Invariant 12: a position of another cluster or timeline is refused, never silently continued."""

from __future__ import annotations

import pytest

from pgmem import Event
from pgmem.core.history import History
from pgmem.errors import HistoryRewritten
from pgmem.events import durable_ops as ops
from tests.support.database import sql
from tests.support.subscriptions import Lease, awaited, plain
from tests.support.waiting import until

REWRITES = ["timeline = timeline + 1", "system_identifier = system_identifier - 1"]


@pytest.mark.parametrize("rewrite", REWRITES)
async def test_a_position_from_another_history_is_refused(both, database_url, rewrite):
    for _ in range(3):
        await both.events.append("payments", Event(type="t"))
    first = await Lease(both).acquired()
    present = first.history
    await first.commit(3)
    await first.release()
    sql(database_url, f"UPDATE pgmem.subscriptions SET {rewrite}")
    for _ in range(2):
        with pytest.raises(HistoryRewritten, match=r"reset\('billing'\)") as refused:
            await Lease(both).try_acquire()
    assert refused.value.position == 3
    assert refused.value.found == present
    assert refused.value.expected != present
    assert isinstance(refused.value.expected, History)
    assert (await both.subscriptions.get("billing")).expires_at is None
    await both.subscriptions.reset("billing")
    again = await Lease(both).acquired()
    assert (again.position, again.history) == (3, present)
    await again.release()


async def test_a_position_of_an_earlier_timeline_is_stamped_by_the_next_acquisition(
    both, database_url
):
    first = await Lease(both).acquired()
    await first.commit(3)
    await first.release()
    sql(database_url, "UPDATE pgmem.subscriptions SET timeline = timeline - 1")
    again = await Lease(both).acquired()
    assert (again.position, again.history) == (3, first.history)
    assert sql(database_url, "SELECT timeline FROM pgmem.subscriptions") == [
        (first.history.timeline,)
    ]
    await again.release()


async def test_a_position_of_an_earlier_timeline_is_refused_if_asked(both, database_url):
    for _ in range(3):
        await both.events.append("payments", Event(type="t"))
    first = await Lease(both).acquired()
    await first.commit(3)
    await first.release()
    sql(database_url, "UPDATE pgmem.subscriptions SET timeline = timeline - 1")
    with pytest.raises(HistoryRewritten, match=r"reset\('billing'\)"):
        await Lease(both, on_failover="refuse").try_acquire()
    await both.subscriptions.reset("billing")
    again = await Lease(both, on_failover="refuse").acquired()
    assert again.position == 3
    await again.release()


async def test_an_owner_goes_on_in_a_later_timeline(both, database_url):
    """Give the owner an earlier history, as if the server was promoted meanwhile."""
    lease = await Lease(both).acquired()
    present = lease.history
    sql(database_url, "UPDATE pgmem.subscriptions SET timeline = timeline - 1")
    earlier = present._replace(timeline=present.timeline - 1)
    lease.raw._held = lease._held._replace(history=earlier)
    await lease.commit(2)
    assert lease.history == present
    assert sql(database_url, "SELECT position, timeline FROM pgmem.subscriptions") == [
        (2, present.timeline)
    ]
    await lease.release()


async def test_an_owner_that_has_seen_lost_events_commits_nothing(both, database_url):
    lease = await Lease(both).acquired()
    present = lease.history

    async def refuse(found):
        raise HistoryRewritten("lost", position=3, expected=None, found=found)

    def refuse_now(found):
        raise HistoryRewritten("lost", position=3, expected=None, found=found)

    lease.raw._on_promotion = refuse if plain(both) is both else refuse_now
    earlier = present._replace(timeline=present.timeline - 1)
    lease.raw._held = lease._held._replace(history=earlier)
    with pytest.raises(HistoryRewritten, match="lost"):
        await lease.commit(2)
    assert isinstance(lease.lost, HistoryRewritten)
    assert (await both.subscriptions.get("billing")).position == 0


async def test_history_is_the_servers(both, database_url):
    lease = await Lease(both).acquired()
    found = sql(
        database_url,
        "SELECT s.system_identifier, c.timeline_id "
        "FROM pg_control_system() s, pg_control_checkpoint() c",
    )
    assert tuple(lease.history) == found[0]
    await lease.release()


@pytest.mark.parametrize("stored", [True, False])
async def test_a_current_owner_of_another_history_is_refused(both, database_url, stored):
    """Change the history, as a failover does: the connection is new.

    With `stored`, the server has the row as the holder made it; without, only the holder is old.
    """
    lease = await Lease(both, lease=0.3).acquired()
    present = lease.history
    other = present._replace(timeline=present.timeline + 1)
    if stored:
        sql(database_url, "UPDATE pgmem.subscriptions SET timeline = timeline + 1")
    lease.raw._held = lease._held._replace(history=other)
    await until(lambda: lease.losses)
    assert isinstance(lease.lost, HistoryRewritten)
    with pytest.raises(HistoryRewritten) as refused:
        await lease.commit(8)
    assert (refused.value.position, refused.value.expected, refused.value.found) == (
        8,
        other,
        present,
    )
    assert (await both.subscriptions.get("billing")).position == 0
    assert len(lease.losses) == 1


async def test_a_row_of_another_history_does_not_match_an_equal_token(both, database_url):
    """After a failover that lost the tail, a token may be given out twice."""
    lease = await Lease(both).acquired()
    await lease.stop_renewing()
    sql(database_url, "UPDATE pgmem.subscriptions SET timeline = timeline + 1")
    for op in (ops.renew(lease._held, lease=1.0), ops.commit(lease._held, 1, lease=1.0)):
        with pytest.raises(HistoryRewritten):
            await awaited(plain(both)._executor.execute(op))
    assert not await awaited(plain(both)._executor.execute(ops.release(lease._held)))
