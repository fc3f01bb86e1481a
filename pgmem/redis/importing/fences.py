"""Keep old writers from writing to a key that has moved to pgmem.

::

    before    agent:events               the stream
    fenced    agent:events:before-pgmem  the stream, under a name that no writer uses
              agent:events               a string that says where it went

A command for streams, hashes or sets (XADD, HSET, SADD …) fails on a string with WRONGTYPE. So a
late write is refused and its writer gets an error: no write is acknowledged and then not imported.
One script moves the key and writes the string. A string cannot be fenced, because SET replaces any
value.
"""

from __future__ import annotations

from pgmem.redis.errors import SourceError
from pgmem.redis.importing.source import RedisSource, Refused

SUFFIX = b":before-pgmem"
FENCE = b"moved to pgmem"
"""The first bytes of a fence."""
WRITTEN_BACK = b"pgmem:written-back:"
"""The prefix of the key that stores the progress of `pgmem.redis.importing.reverse`."""

_RAISE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[2] - 1) == ARGV[2] then
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return redis.error_reply('TWICE')
end
if kind ~= 'none' then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

_LOWER = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  redis.call('DEL', KEYS[1])
elseif kind ~= 'none' and redis.call('EXISTS', KEYS[2]) == 1 then
  return redis.error_reply('TWICE')
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[1])
end
return 1
"""


def fenced_name(key: bytes) -> bytes:
    """Return the name of a key while it is fenced."""
    return key + SUFFIX


def original_name(physical: bytes) -> bytes:
    """Return the original name of a key."""
    return physical.removesuffix(SUFFIX)


def locate(source: RedisSource, key: bytes) -> bytes:
    """Return the present name of a key in Redis, which need not exist."""
    return (
        fenced_name(key)
        if is_fenced(source, key) or source.call("EXISTS", fenced_name(key))
        else key
    )


def is_fenced(source: RedisSource, key: bytes) -> bool:
    """Return True if a fence has the name of a key."""
    try:
        return bool(source.call("GETRANGE", key, 0, len(FENCE) - 1) == FENCE)
    except Refused:
        return False


def fence(source: RedisSource, key: bytes, words: str) -> None:
    """Rename a key and write a fence under its name. Repeatable.

    Args:
        source: the Redis.
        key: the key, which need not exist.
        words: a text for people, stored in the fence.

    Raises:
        SourceError: the key was fenced before, and a writer has created it again since.
    """
    _run(source, _RAISE, key, FENCE + b": " + words.encode(), FENCE)


def unfence(source: RedisSource, key: bytes) -> None:
    """Remove the fence and give a key its name back. Repeatable.

    Raises:
        SourceError: a writer has created the key again.
    """
    _run(source, _LOWER, key, FENCE)


def _run(source: RedisSource, script: str, key: bytes, *arguments: bytes) -> None:
    try:
        source.script(script, [key, fenced_name(key)], *arguments)
    except Refused as error:
        if "TWICE" not in error.reason:
            raise SourceError(
                f"the key {key!r} of Redis could not be renamed: {error.reason}"
            ) from None
        raise SourceError(
            f"the key {key!r} of Redis was renamed to {fenced_name(key)!r}, and there is a new "
            f"{key!r}. A client removed the fence and wrote to the key. Import the new key under a "
            f"name of its own (--stream or --hash …=NAME) if you need it, then delete it and run "
            f"this again"
        ) from None
