"""Redis done right: what a good Redis engineer would write in the place of the published code.

One round trip for each call; whatever belongs together goes in one MULTI or one Lua script; values
go through orjson, as pgmem's do; a stream's entries have no field that its readers do not need
(the entry's id stands for the position and the time).

Where Redis cannot keep a promise, that is said and not hidden:

* MULTI and Lua keep others out, but roll nothing back. The scripts check first and write last; a
  key of the wrong type can still fail a script half done.
* A claim of `run_once` is a lease. Work whose process dies between the effect and `complete` is
  done again when the lease has run out. A token says whose claim it is, not which one is newer.
* What is acknowledged is as safe as `appendfsync` makes it, and that is the server's matter.
* All keys of a call must be on one server: no cluster without hash tags in `prefix`.

Needs Redis 7.0 or Valkey (SET with NX and GET together, XAUTOCLAIM that tells what is gone).
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from benchmarks.arms import scripts
from benchmarks.arms.records import (
    Claim,
    ClaimHeld,
    Conflict,
    Entry,
    Event,
    LeaseLost,
    Outcome,
    Payment,
    Reclaimed,
    Recorded,
)

EVENTS = "events"
KEY_TTL = 86_400.0
"""Seconds that a mark is kept."""
LEASE = 30.0
LONGEST_PAUSE = 0.05

Id = str | bytes
Work = Callable[[], Any]


def connect(url: str, *, threads: bool = False) -> Any:
    """A client at its best practice.

    No `socket_timeout`, which would end a read that waits; no retry by the client, which would
    append an event twice when only the answer was lost (also when redis-py's default changes).

    Args:
        url: where the server is.
        threads: take a connection from a pool for each call. Without it one connection is kept,
            which costs less, and the client is for one thread.
    """
    import redis  # noqa: PLC0415  # only the scenarios beside Redis need the extra
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    return redis.Redis.from_url(
        url,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=not threads,
    )


class Right:
    """A shared memory on Redis.

    Args:
        client: from `connect`; must not decode responses.
        prefix: put before every key.
        agent_id: who changes state.
    """

    def __init__(self, client: Any, *, prefix: str = "", agent_id: str = "") -> None:
        self._redis = client
        self._prefix = prefix
        self._agent_id = agent_id
        self._state = f"{prefix}state"
        self._latest = f"{prefix}latest"
        self._scripts = {text: client.register_script(text) for text in scripts.ALL}
        # Loaded now: the first call of each would find it missing and go a second time.
        for text in self._scripts:
            client.script_load(text)

    def _stream(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _mark(self, key: str) -> str:
        return f"{self._prefix}once:{key}"

    # Events

    def write_event(
        self,
        agent_id: str,
        event_type: str,
        payload: Any,
        *,
        stream: str = EVENTS,
        min_id: Id | None = None,
    ) -> bytes:
        """Append an event and overwrite the latest state, both or neither. Gives the event's id.

        Args:
            agent_id, event_type: who and what; the latest state is kept for the two together.
            payload: any JSON value.
            stream: where to.
            min_id: let go what is older than this, in whole nodes. The caller knows who has read.
        """
        text = orjson.dumps(payload)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self._stream(stream), _fields(event_type, text, agent_id), minid=min_id)
            pipe.hset(self._latest, f"{agent_id}:{event_type}", text)
            found: list[Any] = pipe.execute()
        identity: bytes = found[0]
        return identity

    def latest(self, agent_id: str, event_type: str) -> Any:
        """The payload that `write_event` wrote last; None if there is none."""
        text = self._redis.hget(self._latest, f"{agent_id}:{event_type}")
        return None if text is None else orjson.loads(text)

    def append(
        self, batch: Iterable[Event], *, stream: str = EVENTS, transaction: bool = False
    ) -> list[bytes]:
        """Append events in one round trip. Gives their ids.

        Args:
            batch: the events.
            stream: where to.
            transaction: all or none, and nobody else's between them: by a script, which is
                also the quicker way for more than a few; without it by a pipeline.
        """
        key = self._stream(stream)
        if transaction:
            args = [
                part
                for event in batch
                for part in (event.type, orjson.dumps(event.payload), event.agent_id)
            ]
            together: list[bytes] = self._scripts[scripts.APPEND](keys=(key,), args=args)
            return together
        with self._redis.pipeline(transaction=False) as pipe:
            for event in batch:
                pipe.xadd(key, _fields(event.type, orjson.dumps(event.payload), event.agent_id))
            ids: list[bytes] = pipe.execute()
        return ids

    def read(
        self, after: Id = "0", count: int | None = None, *, stream: str = EVENTS
    ) -> list[Recorded]:
        """The events behind an id, oldest first; does not wait."""
        start = b"(" + (after if isinstance(after, bytes) else after.encode())
        return _recorded(self._redis.xrange(self._stream(stream), min=start, count=count))

    def trim(self, min_id: Id, *, stream: str = EVENTS, exact: bool = False) -> int:
        """Let go of what is older than an id, in whole nodes unless `exact`. Gives how many."""
        dropped: int = self._redis.xtrim(self._stream(stream), minid=min_id, approximate=not exact)
        return dropped

    # State

    def get(self, key: str) -> Entry | None:
        """A key's entry."""
        return _entry(self._redis.hget(self._state, key))

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of those of the keys that are there."""
        found = zip(keys, self._redis.hmget(self._state, keys), strict=True)
        return {key: entry for key, text in found if (entry := _entry(text)) is not None}

    def put(self, key: str, value: Any, *, stream: str = EVENTS) -> int:
        """Write whatever the version is, with the event. Gives the new version."""
        return self._set(key, value, "", stream)

    def compare_and_set(
        self, key: str, value: Any, expected_version: int, *, stream: str = EVENTS
    ) -> int:
        """Write, with the event, if the version is the expected one (0: no entry).

        Raises:
            Conflict: it is not; carries what is there.
        """
        return self._set(key, value, expected_version, stream)

    def _set(self, key: str, value: Any, expected: int | str, stream: str) -> int:
        answer = self._scripts[scripts.COMPARE_AND_SET](
            keys=(self._state, self._stream(stream)),
            args=(key, orjson.dumps(value), expected, self._agent_id),
        )
        if isinstance(answer, int):
            return answer
        raise Conflict(key, _entry(answer))

    def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        max_retries: int = 100,
        stream: str = EVENTS,
    ) -> Entry:
        """Change a value by a function of it, again after each lost race.

        Args:
            key: which.
            fn: gives the new value; may be called several times.
            default: what `fn` gets if there is no entry.
            max_retries: how many races may be lost before giving up.
            stream: where the event goes.

        Raises:
            Conflict: lost too many races.
        """
        entry = self.get(key)
        attempt = 0
        while True:
            value = fn(default if entry is None else entry.value)
            try:
                version = self._set(key, value, entry.version if entry else 0, stream)
            except Conflict as conflict:
                if attempt >= max_retries:
                    raise
                entry = conflict.current  # It came along: no second round trip.
            else:
                return Entry(value, version)
            pause = min(LONGEST_PAUSE, 0.001 * 2 ** min(attempt, 10))
            time.sleep(random.uniform(0, pause))  # noqa: S311  # no secret
            attempt += 1

    # Work that takes effect once

    def run_once(
        self,
        key: str,
        fn: Work,
        *,
        ttl: float = KEY_TTL,
        lease: float = LEASE,
        timeout: float = 60.0,
    ) -> Outcome:
        """Do work whose effects are elsewhere unless it is done; give its result either way.

        A caller that finds another at work waits for the result, or for the lease to run out.

        Args:
            key: names the work.
            fn: does it and gives a JSON value.
            ttl: seconds that the result is kept.
            lease: seconds that the work may take.
            timeout: seconds to wait for another's.

        Raises:
            ClaimHeld: another was still at work after `timeout`.
            LeaseLost: `fn` took too long: somebody else may have done the work as well.
        """
        deadline = time.monotonic() + timeout
        pause = 0.005
        while True:
            try:
                claim = self.claim(key, lease=lease)
                break
            except ClaimHeld:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
            time.sleep(min(random.uniform(pause / 2, pause), remaining))  # noqa: S311
            pause = min(pause * 1.5, 0.1)
        if claim.token is None:
            return Outcome(False, claim.result)
        try:
            result = fn()
        except BaseException:
            self.release(claim)
            raise
        self.complete(claim, result, ttl=ttl)
        return Outcome(True, result)

    def claim(self, key: str, *, lease: float = LEASE) -> Claim:
        """Claim a piece of work, or get its result.

        Raises:
            ClaimHeld: another caller is at work.
        """
        token = uuid.uuid4().hex
        found = self._redis.set(
            self._mark(key), f"c{token}", nx=True, get=True, px=_milliseconds(lease)
        )
        if found is None:
            return Claim(key, token)
        if found.startswith(b"c"):
            raise ClaimHeld(key)
        return Claim(key, None, orjson.loads(found[1:]))

    def complete(self, claim: Claim, result: Any, *, ttl: float = KEY_TTL) -> None:
        """Store the result of claimed work.

        Raises:
            LeaseLost: the claim is not ours any more; nothing is stored.
        """
        stored = self._scripts[scripts.COMPLETE](
            keys=(self._mark(claim.key),),
            args=(claim.token or "", orjson.dumps(result), _milliseconds(ttl)),
        )
        if not stored:
            raise LeaseLost(claim.key)

    def release(self, claim: Claim) -> None:
        """Give a claim back; does nothing if it is not ours any more."""
        self._scripts[scripts.RELEASE](keys=(self._mark(claim.key),), args=(claim.token or "",))

    def append_once(
        self, key: str, event: Event, *, stream: str = EVENTS, ttl: float = KEY_TTL
    ) -> Outcome:
        """Append an event once for a key: mark and event in one script.

        Gives the event's id as the result, of the first call or of the earlier one.
        """
        first, identity = self._scripts[scripts.APPEND_ONCE](
            keys=(self._mark(key), self._stream(stream)),
            args=(event.type, orjson.dumps(event.payload), event.agent_id, _milliseconds(ttl)),
        )
        return Outcome(bool(first), identity)

    def pay(
        self,
        key: str,
        sender: str,
        receiver: str,
        amount: int,
        *,
        payload: Mapping[str, Any],
        result: Any,
        outcomes: str = EVENTS,
        stream: str = EVENTS,
        ttl: float = KEY_TTL,
    ) -> Payment:
        """Move money once: mark, both balances with their versions and events, and the outcome.

        All of it is in Redis, so one script does it and no version has to be expected. Amounts and
        balances are exact up to 2**53: Lua's numbers are doubles.

        Args:
            key: names the payment.
            sender, receiver: two keys whose values are `{"balance": int, "currency": str}`.
            amount: how much.
            payload: of the event `payment.processed` or `payment.declined`; what the balances
                were before is added to it. Not empty.
            result: is kept for callers with the same key.
            outcomes: the stream of that event.
            stream: the stream of the balances' events.
            ttl: seconds that the mark is kept.
        """
        if sender == receiver or not payload:
            raise ValueError("a payment has two accounts and says something")
        first, text = self._scripts[scripts.PAY](
            keys=(self._mark(key), self._state, self._stream(stream), self._stream(outcomes)),
            args=(
                sender,
                receiver,
                amount,
                orjson.dumps(payload),
                orjson.dumps(result),
                self._agent_id,
                _milliseconds(ttl),
            ),
        )
        stored = orjson.loads(text)
        return Payment(bool(first), stored["funds"], stored["result"])

    # Consumer groups

    def create_group(self, group: str, *, after: Id = "0", stream: str = EVENTS) -> None:
        """Make a group that gets what stands behind an id ("$": what comes). Once is enough."""
        import redis  # noqa: PLC0415

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
        """Events that nobody of the group got yet; waits for `timeout` seconds for some."""
        found = self._redis.xreadgroup(
            group,
            consumer,
            {self._stream(stream): ">"},
            count=count,
            block=None if timeout is None else _milliseconds(timeout),
        )
        return _recorded(found[0][1]) if found else []

    def ack(self, group: str, ids: Sequence[Id], *, stream: str = EVENTS) -> int:
        """End deliveries. Gives how many were open."""
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
        """End deliveries and receive more, in one round trip.

        No MULTI: in it no read waits, and a crash between the two hands out nothing twice. Gives
        how many of the deliveries were open, and the events.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xack(self._stream(stream), group, *ids)
            pipe.xreadgroup(
                group,
                consumer,
                {self._stream(stream): ">"},
                count=count,
                block=None if timeout is None else _milliseconds(timeout),
            )
            ended, found = pipe.execute()
        return ended, _recorded(found[0][1]) if found else []

    def left(self, group: str, *, stream: str = EVENTS) -> int:
        """How many events a group has still before it: open deliveries, and what nobody got."""
        key = self._stream(stream)
        for told in self._redis.xinfo_groups(key):
            if told["name"] == group.encode():
                # Not its "lag", which is unknown as soon as something was deleted.
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
        """Take over deliveries that nobody ended for `idle` seconds."""
        after, entries, deleted = self._redis.xautoclaim(
            self._stream(stream), group, consumer, round(idle * 1_000), start_id=cursor, count=count
        )
        return Reclaimed(after, _recorded(entries), list(deleted))


def _fields(event_type: str, text: bytes, agent_id: str) -> dict[str, str | bytes]:
    return {"type": event_type, "payload": text, "agent_id": agent_id}


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))  # 0 would mean "for ever" to BLOCK, and PX refuses it.


def _entry(text: bytes | None) -> Entry | None:
    if text is None:
        return None
    version, _, value = text.partition(b":")
    return Entry(orjson.loads(value), int(version))


def _recorded(entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[Recorded]:
    found = []
    for identity, fields in entries:
        key = fields.get(b"key")
        found.append(
            Recorded(
                identity,
                fields[b"type"].decode(),
                orjson.loads(fields[b"payload"]),
                fields[b"agent_id"].decode(),
                None if key is None else key.decode(),
                None if key is None else int(fields[b"version"]),
            )
        )
    return found
