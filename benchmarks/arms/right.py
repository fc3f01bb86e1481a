"""Keep shared memory on Redis as a good Redis engineer would write the published code.

Each call is one round trip. What belongs together goes in one MULTI or one Lua script. Values go
through orjson, as pgmem's do. A stream's entries have no field that its readers do not need: the
entry's id stands for the position and the time.

Where Redis cannot keep a promise, the docstrings say so:

* MULTI and Lua exclude other clients, but roll nothing back. The scripts check first and write
  last; a key of the wrong type can still fail a script half done.
* A claim of `run_once` is a lease. Work whose process dies between the effect and `complete` is
  done again when the lease has expired. A token identifies a claim; it does not say which claim is
  newer.
* An acknowledged write is as safe as the server's `appendfsync` makes it.
* All keys of a call must be on one server: no cluster without hash tags in `prefix`.

Needs Redis 7.0 or Valkey (SET with NX and GET together, XAUTOCLAIM that returns deleted ids).
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
"""Seconds that a dedupe record is kept."""
LEASE = 30.0
LONGEST_PAUSE = 0.05

Id = str | bytes
Work = Callable[[], Any]


def connect(url: str, *, threads: bool = False) -> Any:
    """Create a client with the recommended settings.

    There is no `socket_timeout`, which would end a blocking read. The client does not retry, also
    if redis-py's default changes: a retry appends an event twice if only the answer was lost.

    Args:
        url: the address of the server.
        threads: take a connection from a pool for each call. Without it the client keeps one
            connection, which costs less, and only one thread may use it.
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


class Call(NamedTuple):
    """A script with its keys and arguments."""

    script: str
    keys: tuple[str, ...]
    args: tuple[Any, ...]


class Right:
    """Keep a shared memory on Redis.

    Args:
        client: from `connect`; must not decode responses.
        prefix: put before every key.
        agent_id: the agent that changes state.
    """

    def __init__(self, client: Any, *, prefix: str = "", agent_id: str = "") -> None:
        self._redis = client
        self._prefix = prefix
        self._agent_id = agent_id
        self._state = f"{prefix}state"
        self._latest = f"{prefix}latest"
        self._scripts = {text: client.register_script(text) for text in scripts.ALL}
        # Load the scripts now. Otherwise the first call of each one fails and is sent a second
        # time.
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
        """Append an event and overwrite the latest state, both or neither; return the event's id.

        Args:
            agent_id, event_type: the latest state is kept for the two together.
            payload: any JSON value.
            stream: the stream.
            min_id: trim older entries, in whole nodes. The caller knows what has been read.
        """
        text = orjson.dumps(payload)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(self._stream(stream), _fields(event_type, text, agent_id), minid=min_id)
            pipe.hset(self._latest, f"{agent_id}:{event_type}", text)
            found: list[Any] = pipe.execute()
        identity: bytes = found[0]
        return identity

    def latest(self, agent_id: str, event_type: str) -> Any:
        """Return the payload that `write_event` wrote last; None if there is none."""
        text = self._redis.hget(self._latest, f"{agent_id}:{event_type}")
        return None if text is None else orjson.loads(text)

    def append(
        self, batch: Iterable[Event], *, stream: str = EVENTS, transaction: bool = False
    ) -> list[bytes]:
        """Append events in one round trip, and return their ids.

        Args:
            batch: the events.
            stream: the stream.
            transaction: append all or none, and no other entries between them, by a script. It is
                also faster for more than a few events. Without it, use a pipeline.
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
        """Read the events after an id, oldest first; does not wait."""
        start = b"(" + (after if isinstance(after, bytes) else after.encode())
        return _recorded(self._redis.xrange(self._stream(stream), min=start, count=count))

    def trim(self, min_id: Id, *, stream: str = EVENTS, exact: bool = False) -> int:
        """Trim entries before an id, in whole nodes unless `exact`; return the number removed."""
        dropped: int = self._redis.xtrim(self._stream(stream), minid=min_id, approximate=not exact)
        return dropped

    # State

    def get(self, key: str) -> Entry | None:
        """Return a key's entry."""
        return entry(self._redis.hget(self._state, key))

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of those keys that have one."""
        found = zip(keys, self._redis.hmget(self._state, keys), strict=True)
        entries = ((key, entry(text)) for key, text in found)
        return {key: found for key, found in entries if found is not None}

    def put(self, key: str, value: Any, *, stream: str = EVENTS) -> int:
        """Write at any version, with the event; return the new version."""
        return self._set(key, value, "", stream)

    def compare_and_set(
        self, key: str, value: Any, expected_version: int, *, stream: str = EVENTS
    ) -> int:
        """Write, with the event, if the version is the expected one (0: no entry).

        Raises:
            Conflict: the version is another; carries the current entry.
        """
        return self._set(key, value, expected_version, stream)

    def _set(self, key: str, value: Any, expected: int | str, stream: str) -> int:
        answer = self._scripts[scripts.COMPARE_AND_SET](
            keys=(self._state, self._stream(stream)),
            args=(key, orjson.dumps(value), expected, self._agent_id),
        )
        if isinstance(answer, int):
            return answer
        raise Conflict(key, entry(answer))

    def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        max_retries: int = 100,
        stream: str = EVENTS,
    ) -> Entry:
        """Change a value by a function of it; retry after each lost race.

        Args:
            key: the key.
            fn: returns the new value; may be called several times.
            default: the argument of `fn` if there is no entry.
            max_retries: the number of lost races before giving up.
            stream: the stream of the event.

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
                entry = conflict.current  # The answer carries it: no second round trip.
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
        """Do work with effects elsewhere unless it is done; return its result either way.

        If another caller is at work, wait for its result or for its lease to expire.

        Args:
            key: names the work.
            fn: does the work and returns a JSON value.
            ttl: seconds that the result is kept.
            lease: seconds that the work may take.
            timeout: seconds to wait for another caller's work.

        Raises:
            ClaimHeld: another caller was still at work after `timeout`.
            LeaseLost: `fn` took too long; another caller may have done the work as well.
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
        """Claim a piece of work, or return its result.

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
            LeaseLost: the claim has expired or passed to another caller; nothing is stored.
        """
        stored = self._scripts[scripts.COMPLETE](
            keys=(self._mark(claim.key),),
            args=(claim.token or "", orjson.dumps(result), _milliseconds(ttl)),
        )
        if not stored:
            raise LeaseLost(claim.key)

    def release(self, claim: Claim) -> None:
        """Release a claim; do nothing if it has expired or passed to another caller."""
        self._scripts[scripts.RELEASE](keys=(self._mark(claim.key),), args=(claim.token or "",))

    def append_once(
        self, key: str, event: Event, *, stream: str = EVENTS, ttl: float = KEY_TTL
    ) -> Outcome:
        """Append an event once for a key: dedupe record and event in one script.

        Return the event's id as the result, of the first call or of the earlier one.
        """
        first, identity = self._call(self.append_once_call(key, event, stream=stream, ttl=ttl))
        return Outcome(bool(first), identity)

    def append_once_call(
        self, key: str, event: Event, *, stream: str = EVENTS, ttl: float = KEY_TTL
    ) -> Call:
        """Return the call of `append_once`, for `together`."""
        return Call(
            scripts.APPEND_ONCE,
            (self._mark(key), self._stream(stream)),
            (event.type, orjson.dumps(event.payload), event.agent_id, _milliseconds(ttl)),
        )

    def _call(self, call: Call) -> Any:
        return self._scripts[call.script](keys=call.keys, args=call.args)

    def together(self, calls: Iterable[Call]) -> list[Any]:
        """Execute scripts in one round trip, each by itself, and return their answers."""
        with self._redis.pipeline(transaction=False) as pipe:
            for script, keys, args in calls:
                # Not the script object, which would ask in a further round trip if it is loaded.
                pipe.evalsha(self._scripts[script].sha, len(keys), *keys, *args)
            answers: list[Any] = pipe.execute()
        return answers

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
        """Move money once: dedupe record, both balances with versions and events, and the outcome.

        All of it is in Redis, so one script does it and no version has to be expected. Amounts and
        balances are exact up to 2**53, because Lua's numbers are doubles.

        Args:
            key: names the payment.
            sender, receiver: two keys whose values are `{"balance": int, "currency": str}`.
            amount: the amount.
            payload: of the event `payment.processed` or `payment.declined`, not empty; the earlier
                balances are added to it.
            result: kept for callers with the same key.
            outcomes: the stream of that event.
            stream: the stream of the balances' events.
            ttl: seconds that the dedupe record is kept.
        """
        first, text = self._call(
            self.pay_call(
                key,
                sender,
                receiver,
                amount,
                payload=payload,
                result=result,
                outcomes=outcomes,
                stream=stream,
                ttl=ttl,
            )
        )
        stored = orjson.loads(text)
        return Payment(bool(first), stored["funds"], stored["result"])

    def pay_call(
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
    ) -> Call:
        """Return the call of `pay`, for `together`."""
        if sender == receiver or not payload:
            raise ValueError("a payment needs two accounts and a payload")
        return Call(
            scripts.PAY,
            (self._mark(key), self._state, self._stream(stream), self._stream(outcomes)),
            (
                sender,
                receiver,
                amount,
                orjson.dumps(payload),
                orjson.dumps(result),
                self._agent_id,
                _milliseconds(ttl),
            ),
        )

    # Consumer groups

    def create_group(self, group: str, *, after: Id = "0", stream: str = EVENTS) -> None:
        """Create a group that reads after an id ("$": new entries only)."""
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
        """Receive events that are new to the group; wait up to `timeout` seconds."""
        found = self._redis.xreadgroup(
            group,
            consumer,
            {self._stream(stream): ">"},
            count=count,
            block=None if timeout is None else _milliseconds(timeout),
        )
        return _recorded(found[0][1]) if found else []

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
                block=None if timeout is None else _milliseconds(timeout),
            )
            ended, found = pipe.execute()
        return ended, _recorded(found[0][1]) if found else []

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
        return Reclaimed(after, _recorded(entries), list(deleted))


def _fields(event_type: str, text: bytes, agent_id: str) -> dict[str, str | bytes]:
    return {"type": event_type, "payload": text, "agent_id": agent_id}


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))  # BLOCK takes 0 for "without limit", and PX refuses it.


def entry(text: bytes | None) -> Entry | None:
    """Parse an entry as `Right` stores it."""
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
