"""Keep shared memory on Redis as the article published it.

The six methods send the commands of the article, in its order, with its arguments. Their faults are
the point: nothing is corrected, tuned or made safer (`benchmarks.arms.right` is the place for
that), and `tests/system/benchmarks/arms/test_published.py` shows each fault.

Some behavior depends on today's redis-py (8):

* `read_events` waits with BLOCK 0, which means without limit. A client times out after its
  `socket_timeout`, by default 5 seconds, with a `redis.TimeoutError`. The command stays as it is:
  `connect` makes a client that waits. A scenario that must not hang passes `block`.
* XADD with `maxlen` alone means MAXLEN ~: the stream is cut in whole nodes of 100 entries, so it
  holds from 10,000 to about 10,100 of them.
* `redis.Redis(...)` sends a command again, up to 10 times, if the connection breaks before the
  answer: XADD then writes twice. `Redis.from_url`, used here, does not.
* The article's naive UTC clock is deprecated in Python 3.12. The same text is made another way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg

SNAPSHOTS_TABLE = """
CREATE TABLE IF NOT EXISTS agent_snapshots (
    key text NOT NULL,
    value text NOT NULL,
    created_at timestamptz NOT NULL
)
"""
"""The article shows no DDL; this is the least that its INSERT needs."""

Fields = dict[Any, Any]


class ConcurrentModificationError(Exception):
    """Raised if all tries of an update lost."""


def connect(url: str) -> Any:
    """Create a client as the article does, except that it can wait for longer than 5 seconds."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=None)


class Published:
    """Hold the article's class.

    Args:
        client: a redis-py client that does not decode responses.
        work: what `process_event` does with an event.
        database: the Postgres connection of `take_snapshot`, with `SNAPSHOTS_TABLE`.
        prefix: put before every key, to separate scenarios. The article has none.
        block: milliseconds that `read_events` waits; 0, the article's, is without limit.
    """

    def __init__(
        self,
        client: Any,
        work: Callable[[Any], Any] | None = None,
        database: psycopg.Connection[Any] | None = None,
        *,
        prefix: str = "",
        block: int = 0,
    ) -> None:
        self._redis = client
        self._work = work
        self._database = database
        self._prefix = prefix
        self._block = block
        self.stream_key = f"{prefix}agent:events"
        self.state_key = f"{prefix}agent:state"
        self.processed_key = f"{prefix}processed:events"

    def write_event(self, agent_id: str, event_type: str, payload: Any) -> None:
        """Add an event, then overwrite the latest state: two commands, two round trips."""
        fields = {
            "agent_id": agent_id,
            "event_type": event_type,
            "payload": json.dumps(payload),
            "timestamp": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        }
        self._redis.xadd(self.stream_key, fields, maxlen=10_000)
        # Encoded a second time, as in the article.
        self._redis.hset(self.state_key, f"{agent_id}:{event_type}", json.dumps(payload))

    def read_events(self, last_id: str | bytes = "0", count: int = 100) -> Any:
        """Read events after `last_id`, and wait if there are none; return the answer of XREAD."""
        return self._redis.xread({self.stream_key: last_id}, count=count, block=self._block)

    def get_latest_state(self, agent_id: str, event_type: str) -> Any:
        """Return the latest payload of an agent and type; empty if there is none."""
        found = self._redis.hget(self.state_key, f"{agent_id}:{event_type}")
        return json.loads(found) if found else {}

    def take_snapshot(self) -> None:
        """Copy the whole state into Postgres, a row each, without the position of the copy."""
        everything = self._redis.hgetall(self.state_key)
        assert self._database is not None
        with self._database.cursor() as cursor:
            for key, value in everything.items():
                cursor.execute(
                    "INSERT INTO agent_snapshots (key, value, created_at) VALUES (%s, %s, NOW())",
                    (key.decode(), value.decode()),
                )
        self._database.commit()

    def process_event(self, event: Mapping[str, Any]) -> Any:
        """Do the work unless its record says that it is done: check, work, record."""
        key = event["id"]
        if self._redis.sismember(self.processed_key, key):
            return {"status": "skipped", "reason": "already_processed"}
        result = self._do_actual_work(event)
        self._redis.sadd(self.processed_key, key)
        self._redis.expire(self.processed_key, 86_400)
        return result

    def _do_actual_work(self, event: Mapping[str, Any]) -> Any:
        assert self._work is not None
        return self._work(event)

    def update_with_version(
        self, resource_id: str, update_fn: Callable[[Fields], Fields], max_retries: int = 3
    ) -> Fields:
        """Read, change, write if no version is set, which holds for a resource's first update only.

        Raises:
            ConcurrentModificationError: all tries failed.
        """
        key = f"{self._prefix}resource:{resource_id}"
        for attempt in range(max_retries):
            current = self._redis.hgetall(key)
            version = int(current.get(b"version", 0))
            changed = update_fn(current)
            changed["version"] = version + 1
            # HSETNX sets a missing field only. From the second update on the field exists.
            if self._redis.hsetnx(key, "version", version + 1):
                self._redis.hset(key, mapping=changed)
                return changed
            time.sleep(0.1 * (2**attempt))
        raise ConcurrentModificationError(f"update of {resource_id}: lost {max_retries} tries")
