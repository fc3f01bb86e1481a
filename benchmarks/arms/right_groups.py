"""Share a stream's events in consumer groups on Redis done right; see `right`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arms.records import Reclaimed, Recorded
from benchmarks.arms.right_events import EVENTS, Id, RightEvents, milliseconds, recorded


class RightGroups(RightEvents):
    """Receive a stream's events as members of a group."""

    def create_group(self, group: str, *, after: Id = "0", stream: str = EVENTS) -> None:
        """Create a group that reads after an id ("$": new entries only)."""
        import redis

        try:
            self._redis.xgroup_create(self._stream(stream), group, id=after, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def receive(
        self,
        group: str,
        consumer: str,
        count: int = 100,
        *,
        timeout: float | None = None,
        stream: str = EVENTS,
    ) -> list[Recorded]:
        """Receive events that are new to the group; wait up to `timeout` seconds."""
        found = self._redis.xreadgroup(
            group,
            consumer,
            {self._stream(stream): ">"},
            count=count,
            block=None if timeout is None else milliseconds(timeout),
        )
        return recorded(found[0][1]) if found else []

    def ack(self, group: str, ids: Sequence[Id], *, stream: str = EVENTS) -> int:
        """Acknowledge deliveries, and return how many were pending."""
        ended: int = self._redis.xack(self._stream(stream), group, *ids)
        return ended

    def exchange(
        self,
        group: str,
        consumer: str,
        ids: Sequence[Id],
        count: int = 100,
        *,
        timeout: float | None = None,
        stream: str = EVENTS,
    ) -> tuple[int, list[Recorded]]:
        """Acknowledge deliveries and receive more, in one round trip.

        Without MULTI: a read in it does not wait, and a crash between the two delivers nothing
            twice. Return how many of the deliveries were pending, and the events.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xack(self._stream(stream), group, *ids)
            pipe.xreadgroup(
                group,
                consumer,
                {self._stream(stream): ">"},
                count=count,
                block=None if timeout is None else milliseconds(timeout),
            )
            ended, found = pipe.execute()
        return ended, recorded(found[0][1]) if found else []

    def left(self, group: str, *, stream: str = EVENTS) -> int:
        """Return how many events a group has not finished: pending and undelivered ones."""
        key = self._stream(stream)
        for told in self._redis.xinfo_groups(key):
            if told["name"] == group.encode():
                # Not its "lag", which is unknown after any deletion.
                behind = self._redis.xrange(key, min=b"(" + told["last-delivered-id"])
                return int(told["pending"]) + len(behind)
        raise LookupError(f"{key} has no group {group}")

    def reclaim(
        self,
        group: str,
        consumer: str,
        idle: float,
        count: int = 100,
        *,
        cursor: Id = "0-0",
        stream: str = EVENTS,
    ) -> Reclaimed:
        """Take over deliveries that have been pending for `idle` seconds."""
        after, entries, deleted = self._redis.xautoclaim(
            self._stream(stream), group, consumer, round(idle * 1_000), start_id=cursor, count=count
        )
        return Reclaimed(after, recorded(entries), list(deleted))
