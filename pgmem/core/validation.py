"""Check names, durations and numbers before anything is sent."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection
from datetime import timedelta

from pgmem.core.names import NAME_BYTES, RESERVED_PREFIX, ReservedName
from pgmem.errors import InvalidInput

MAX_POSITION = 2**63 - 1

Seconds = float | timedelta
DAY = 86_400.0


_REDIS_ID = re.compile(r"\d+-\d+", re.ASCII)


CHECKED: set[str] = set()
"""Some names that `check_name` has passed, because few streams, types and agents are used again and
again."""

_MOST_CHECKED = 1_000


def check_again(name: str, what: str) -> None:
    """Check a name that is likely to be used again: it is in `CHECKED` from now on.

    Raises:
        InvalidInput: as `check_name`.
    """
    check_name(name, what)
    if len(CHECKED) >= _MOST_CHECKED:
        CHECKED.clear()
    CHECKED.add(str(name))


def check_name(name: str, what: str, *, most: int = NAME_BYTES) -> str:
    """Check a stream, key, type, agent or other name.

    Raises:
        InvalidInput: it is no text, empty, longer than `most` bytes in UTF-8, or holds a character
            that PostgreSQL cannot store.
    """
    if type(name) is str and 0 < len(name) <= most and name.isascii() and "\0" not in name:
        return name  # Nearly every name: a character is a byte.
    if not isinstance(name, str):
        raise InvalidInput(f"{what} must be a str, got {type(name).__name__}")
    if not name:
        raise InvalidInput(f"{what} is empty: give it 1 to {most} bytes")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{what} {name!a} holds a lone surrogate, which is no character: decode it properly"
        ) from None
    if size > most:
        raise InvalidInput(f"{what} {name[:40]!r}… has {size} bytes in UTF-8, {most} are allowed")
    if "\0" in name:
        raise InvalidInput(f"{what} {name!r} holds a NUL character, which PostgreSQL cannot store")
    return name


def check_names(names: Collection[str], what: str) -> None:
    """Check several names, of which most are the same.

    Raises:
        InvalidInput: as `check_name`.
    """
    with contextlib.suppress(TypeError):  # what cannot be in a set is no str either
        names = set(names)
    for name in names:
        check_name(name, what)


def check_unreserved(name: str, what: str) -> str:
    """Check a name that must not be one of pgmem's own.

    A caller that held one of pgmem's own leases would stop its maintenance.

    Raises:
        InvalidInput: as `check_name`, or it is one of pgmem's own.
    """
    check_name(name, what)
    if name.startswith(RESERVED_PREFIX) and not isinstance(name, ReservedName):
        raise InvalidInput(
            f"the {what} {name[:60]!r} is pgmem's own: choose a name that does not begin with "
            f"{RESERVED_PREFIX!r}"
        )
    return str(name)


def check_prefix(prefix: str, what: str) -> str:
    """Check the beginning of a name; it may be empty.

    Raises:
        InvalidInput: as `check_name`.
    """
    return prefix if prefix == "" else check_name(prefix, what)


def after_prefix(prefix: str) -> str | None:
    """Return the smallest text above every text that begins with `prefix`, or None.

    Texts compare by their UTF-8 bytes, which is the order of their code points.
    """
    for end in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[end])
        if code < 0x10FFFF:
            following = 0xE000 if code + 1 == 0xD800 else code + 1
            return prefix[:end] + chr(following)
    return None


def check_count(number: int, what: str, *, minimum: int, maximum: int = MAX_POSITION) -> int:
    """Check a whole number.

    Raises:
        InvalidInput: it is no int, or outside the bounds.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidInput(f"{what} must be an int, got {type(number).__name__}")
    if not minimum <= number <= maximum:
        raise InvalidInput(f"{what} must be {minimum} to {maximum}, got {_shown(number)}")
    return number


def _shown(number: int) -> str:
    """Write a number for a message. Python refuses to write one of more than 4,300 digits."""
    return str(number) if number.bit_length() <= 128 else f"one of {number.bit_length()} bits"


def check_position(position: int, what: str) -> int:
    """Check a position of the log.

    Raises:
        InvalidInput: it is the id of an entry of a Redis stream.
        InvalidInput: as `check_count`.
    """
    text = position.decode(errors="replace") if isinstance(position, bytes) else position
    if isinstance(text, str) and _REDIS_ID.fullmatch(text):
        raise InvalidInput(
            f"{what}={text} is an id of a Redis stream, and a position here is an int: "
            f"pgmem.redis.position_of(memory, stream, id) gives the position of an entry "
            f"that `pgmem import-redis` brought in"
        )
    return check_count(position, what, minimum=0)


def check_seconds(duration: Seconds, what: str, *, zero: bool = False) -> float:
    """Check a duration and give it in seconds.

    Raises:
        InvalidInput: it is no number of seconds or timedelta, not finite, not above zero (or
            below it, where `zero` is allowed), or over a hundred years.
    """
    if zero and type(duration) is int and duration == 0:
        return 0.0  # Nearly every read.
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if not isinstance(duration, int | float) or isinstance(duration, bool):
        raise InvalidInput(f"{what} must be seconds or a timedelta, got {type(duration).__name__}")
    if isinstance(duration, int) and abs(duration) > MAX_POSITION:  # It may be above any float.
        raise InvalidInput(
            f"{what} must be at most a hundred years and not negative, got {_shown(duration)} s"
        )
    if not math.isfinite(duration) or duration < 0 or (duration == 0 and not zero):
        raise InvalidInput(f"{what} must be {'0 or more' if zero else 'above 0'}, got {duration}")
    if duration > 100 * 366 * DAY:
        raise InvalidInput(f"{what} must be at most a hundred years, got {duration} s")
    return float(duration)


def check_within_a_day(duration: Seconds, what: str, why: str) -> float:
    """Check how long something is held, and give it in seconds.

    Args:
        duration: how long.
        what: its name.
        why: what a longer one would do.

    Raises:
        InvalidInput: as `check_seconds`, or over a day.
    """
    seconds = check_seconds(duration, what)
    if seconds > DAY:
        raise InvalidInput(f"{what} must be at most a day ({DAY:g} s), got {seconds:g} s: {why}")
    return seconds
