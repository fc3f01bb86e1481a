"""Keep events and versioned state on Redis done right; see `right`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from benchmarks.arms import scripts
from benchmarks.arms.records import Conflict, Entry, Event, Recorded

EVENTS = "events"
LONGEST_PAUSE = 0.05

Id = str | bytes


class RightEvents:
    """Keep events, and state with a version, on Redis.

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
            pipe.xadd(self._stream(stream), fields_of(event_type, text, agent_id), minid=min_id)
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
                pipe.xadd(key, fields_of(event.type, orjson.dumps(event.payload), event.agent_id))
            ids: list[bytes] = pipe.execute()
        return ids

    def read(
        self, after: Id = "0", count: int | None = None, *, stream: str = EVENTS
    ) -> list[Recorded]:
        """Read the events after an id, oldest first; does not wait."""
        start = b"(" + (after if isinstance(after, bytes) else after.encode())
        return recorded(self._redis.xrange(self._stream(stream), min=start, count=count))

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


def fields_of(event_type: str, text: bytes, agent_id: str) -> dict[str, str | bytes]:
    """Return the fields of an event's entry."""
    return {"type": event_type, "payload": text, "agent_id": agent_id}


def milliseconds(seconds: float) -> int:
    """Return a duration as commands take it: at least 1.

    BLOCK takes 0 for "without limit", and PX refuses it.
    """
    return max(1, round(seconds * 1_000))


def entry(text: bytes | None) -> Entry | None:
    """Parse an entry as `Right` stores it."""
    if text is None:
        return None
    version, _, value = text.partition(b":")
    return Entry(orjson.loads(value), int(version))


def recorded(entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[Recorded]:
    """Parse a stream's entries."""
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
