"""Leases of durable subscriptions, in both forms. They have no public name."""

from __future__ import annotations

import inspect

from pgmem._sync.events.durable_lease import SubscriptionLease
from pgmem.events.durable_lease import AsyncSubscriptionLease
from tests.support.both import Awaited
from tests.support.database import sql

SELECTION = {"streams": ["payments"]}


def end_leases(url):
    sql(url, "UPDATE pgmem.subscriptions SET expires_at = clock_timestamp() - interval '1 s'")


def last_token(url):
    return sql(url, "SELECT last_value FROM pgmem.subscriptions_token_seq")[0][0]


def waits_for_a_row(url):
    """Return the statements in this database that wait for a lock."""
    return sql(
        url,
        "SELECT 1 FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )


async def awaited(value):
    """Await the result of a call of the async form."""
    return await value if inspect.isawaitable(value) else value


def sync_lease(memory, name, *, lease=30.0, selection=SELECTION):
    """Make a lease of the synchronous form."""
    return SubscriptionLease(
        memory._executor,
        name,
        selection,
        start=0,
        lease=lease,
        owner="o",
        on_lost=lambda error: None,
        on_promotion=memory._reader.follow_history,
    )


def plain(thing):
    """Return the object behind an awaitable one."""
    return thing.wrapped if isinstance(thing, Awaited) else thing


class Lease:
    """A lease to be awaited in either form; its attributes are plain.

    Attributes:
        losses: what `on_lost` was told.
    """

    def __init__(
        self,
        memory,
        name="billing",
        *,
        lease=30.0,
        start=0,
        selection=None,
        owner="me",
        on_failover="continue",
    ):
        self.losses = []
        make = SubscriptionLease if isinstance(memory, Awaited) else AsyncSubscriptionLease
        self.raw = make(
            plain(memory)._executor,
            name,
            SELECTION if selection is None else selection,
            start=start,
            lease=lease,
            owner=owner,
            on_lost=self.losses.append,
            on_promotion=plain(memory)._reader.follow_history,
            on_failover=on_failover,
        )
        self._face = Awaited(self.raw) if isinstance(memory, Awaited) else self.raw

    def __getattr__(self, name):
        return getattr(self.raw, name)

    async def try_acquire(self):
        return await self._face.try_acquire()

    async def acquired(self):
        """Acquire the lease, which must be free."""
        assert await self.try_acquire() is None
        return self

    async def commit(self, position, tx=None):
        bound = None if tx is None else plain(tx).events._executor
        await self._face.commit(position, bound)

    async def release(self):
        await self._face.release()

    async def stop_renewing(self):
        """Stop renewing, as a paused process does."""
        self.raw._stop.set()
        if isinstance(self._face, Awaited):
            self.raw._worker.join(5)
        else:
            await self.raw._worker.join(5)
