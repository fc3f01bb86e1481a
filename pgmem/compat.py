"""The published shared memory of a Redis stream, a hash and a set, on PostgreSQL.

    from pgmem.compat import SharedMemoryLayer       # was: your own module
    layer = SharedMemoryLayer("postgresql://…")      # was: SharedMemoryLayer(redis_client)

The same six methods, for code that was written to them. What is different, and why, is in
docs/coming-from-redis.md. New code does better with `pgmem.Memory`.
"""

from pgmem._async.layer import AsyncSharedMemoryLayer
from pgmem._sync.layer import SharedMemoryLayer
from pgmem.errors import ConcurrentModificationError, ForeignId

__all__ = [
    "AsyncSharedMemoryLayer",
    "ConcurrentModificationError",
    "ForeignId",
    "SharedMemoryLayer",
]
