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

from typing import Any

from benchmarks.arms.right_events import EVENTS, entry
from benchmarks.arms.right_groups import RightGroups
from benchmarks.arms.right_once import LEASE, RightOnce

__all__ = ["EVENTS", "LEASE", "Right", "connect", "entry"]


class Right(RightOnce, RightGroups):
    """Keep a shared memory on Redis: events, state, work that takes effect once, groups."""


def connect(url: str, *, threads: bool = False) -> Any:
    """Create a client with the recommended settings.

    There is no `socket_timeout`, which would end a blocking read. The client does not retry, also
    if redis-py's default changes: a retry appends an event twice if only the answer was lost.

    Args:
        url: the address of the server.
        threads: take a connection from a pool for each call. Without it the client keeps one
            connection, which costs less, and only one thread may use it.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=not threads,
    )
