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

from collections.abc import Sequence

from pgmem.redis.importing.source import KeyFault, RedisSource, Refused

SUFFIX = b":before-pgmem"
FENCE = b"moved to pgmem"
"""The first bytes of a fence."""
AT_ONCE = 1_000
"""Keys in one round trip."""
WRITTEN_BACK = b"pgmem:written-back:"
"""The prefix of the key that stores the progress of `pgmem.redis.importing.reverse`."""

_RAISE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[2] - 1) == ARGV[2] then
  return 0
end
if kind ~= 'none' and kind ~= ARGV[3] then
  return redis.error_reply('OTHER ' .. kind)
end
if kind ~= 'none' then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    return redis.error_reply('TWICE')
  end
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
    if source.cluster:  # its nodes are only imported from
        return key
    there = is_fenced(source, key) or source.many([("EXISTS", fenced_name(key))]) == [1]
    return fenced_name(key) if there else key


def is_fenced(source: RedisSource, key: bytes) -> bool:
    """Return True if a fence has the name of a key."""
    try:
        return bool(source.call("GETRANGE", key, 0, len(FENCE) - 1) == FENCE)
    except Refused:
        return False


def fence(source: RedisSource, key: bytes, kind: str, words: str) -> None:
    """Rename a key and write a fence under its name. Repeatable.

    Args:
        source: the Redis.
        key: the key, which need not exist.
        kind: its type.
        words: a text for people, stored in the fence.

    Raises:
        KeyFault: the key was fenced before, and a writer has created it again since; it has another
            type; or the user may not write to it.
    """
    _run(source, _RAISE, key, FENCE + b": " + words.encode(), FENCE, kind.encode())


def unfence(source: RedisSource, key: bytes) -> None:
    """Remove the fence and give a key its name back. Repeatable.

    Raises:
        KeyFault: a writer has created the key again, or the user may not write to it.
    """
    _run(source, _LOWER, key, FENCE)


def obstacles(source: RedisSource, keys: Sequence[bytes]) -> list[str]:
    """Return why keys that are not fenced, and need not exist, could not be. Changes nothing."""
    found = []
    for at in range(0, len(keys), AT_ONCE):
        some = keys[at : at + AT_ONCE]
        # A script may only be run with keys that the user may write to.
        rights = source.many([("EVAL", "return 1", 2, key, fenced_name(key)) for key in some])
        there = source.many([("EXISTS", key, fenced_name(key)) for key in some])
        for key, right, count in zip(some, rights, there, strict=True):
            if isinstance(right, Refused):
                found.append(_not_renamed(key, right.reason))
            elif count == 2:
                found.append(_created_again(key))
    return found


def _run(source: RedisSource, script: str, key: bytes, *arguments: bytes) -> None:
    try:
        source.script(script, [key, fenced_name(key)], *arguments)
    except Refused as error:
        if "TWICE" in error.reason:
            raise KeyFault(_created_again(key)) from None
        raise KeyFault(_not_renamed(key, error.reason)) from None


def _not_renamed(key: bytes, reason: str) -> str:
    if reason.startswith("OTHER"):
        reason = f"it is a {reason.split()[1]} now. Delete it, or leave it out (--except KEY)"
    return f"the key {key!r} of Redis could not be renamed: {reason}"


def _created_again(key: bytes) -> str:
    return (
        f"the key {key!r} of Redis was renamed to {fenced_name(key)!r}, and there is a new "
        f"{key!r}. A client removed the fence and wrote to the key. Import the new key under a "
        f"name of its own (--stream or --hash …=NAME) if you need it, then delete it and run this "
        f"again. Or leave it out (--except KEY)"
    )
