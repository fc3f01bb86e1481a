"""Fences: what keeps an old writer from writing to a key that has moved to pgmem.

::

    before    agent:events               the stream
    fenced    agent:events:before-pgmem  the stream; nobody knows it by this name
              agent:events               a string that says where it went

A command for streams, hashes or sets (XADD, HSET, SADD …) fails on a string with WRONGTYPE, so a
late write is refused and its writer learns of it: nothing is acknowledged that nobody imports. The
two keys change places in one script. A string cannot be fenced: SET replaces whatever is there.

This module knows no rules and imports nothing.
"""

from __future__ import annotations

from pgmem.redis.errors import SourceError
from pgmem.redis.importing.source import RedisSource, Refused

SUFFIX = b":before-pgmem"
FENCE = b"moved to pgmem"
"""What a fence begins with."""
WRITTEN_BACK = b"pgmem:written-back:"
"""What begins the name of the key where `pgmem.redis.importing.reverse` keeps how far it is."""

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


def aside(key: bytes) -> bytes:
    """What a key is called while it is fenced off."""
    return key + SUFFIX


def named(physical: bytes) -> bytes:
    """The name that a key is spoken of."""
    return physical.removesuffix(SUFFIX)


def locate(source: RedisSource, key: bytes) -> bytes:
    """What a key is called in Redis right now, or would be."""
    return aside(key) if is_fenced(source, key) or source.call("EXISTS", aside(key)) else key


def is_fenced(source: RedisSource, key: bytes) -> bool:
    """Whether a fence stands in the place of a key."""
    try:
        return bool(source.call("GETRANGE", key, 0, len(FENCE) - 1) == FENCE)
    except Refused:
        return False


def fence(source: RedisSource, key: bytes, words: str) -> None:
    """Put a key aside and a fence in its place; again is harmless.

    Args:
        source: the Redis.
        key: the key, which need not exist.
        words: what a human finds there.

    Raises:
        SourceError: a key was put aside before, and somebody has made it anew since.
    """
    _run(source, _RAISE, key, FENCE + b": " + words.encode(), FENCE)


def unfence(source: RedisSource, key: bytes) -> None:
    """Put a key back in its place; again is harmless.

    Raises:
        SourceError: somebody has made the key anew.
    """
    _run(source, _LOWER, key, FENCE)


def _run(source: RedisSource, script: str, key: bytes, *arguments: bytes) -> None:
    try:
        source.script(script, [key, aside(key)], *arguments)
    except Refused as error:
        if "TWICE" not in error.reason:
            raise SourceError(
                f"the key {key!r} of Redis could not be moved: {error.reason}"
            ) from None
        raise SourceError(
            f"the key {key!r} of Redis was put aside as {aside(key)!r}, and there is a new one: "
            f"somebody removed the fence and wrote to it. Look at both; when the new one is "
            f"imported under a name of its own (--stream or --hash …=NAME) or not wanted, remove "
            f"it, and run this again"
        ) from None
