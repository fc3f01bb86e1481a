"""Counters: adding to the number under a key of the state, in one statement.

Says what to run; `pgmem.state.verbs` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgmem.core.encoding import DEFAULT_MAX_BYTES, decode, encode
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.errors import InvalidValue
from pgmem.events.codec import Codec
from pgmem.state.models import StateEntry
from pgmem.state.ops import PUT_TYPE, Recording, check_key, write

NUMBER_LIMIT = 2**63
"""An increment stays below it on both sides: so what comes back is what the server added up."""


def increment(
    key: str, by: float, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Add to the number under a key.

    Raises (from `parse`):
        InvalidValue: what is there is no number, or the sum would leave the range.
    """
    if isinstance(by, bool) or not isinstance(by, int | float):
        raise InvalidValue(f"increment adds an int or a float, got {type(by).__name__}")
    if not -NUMBER_LIMIT < by < NUMBER_LIMIT:  # also false for NaN
        raise InvalidValue(f"increment adds at most ±(2⁶³ − 1), got {by!r}")

    def parse(rows: Sequence[Row]) -> StateEntry:
        version, updated_at, expires_at, position, text, found = rows[0][:6]
        if version is not None:
            return StateEntry(key, decode(text), version, updated_at, expires_at, position)
        if found is None:  # It changed while the statement ran.
            raise RetryStatement
        if found != "number":
            raise InvalidValue(
                f"increment of state {key!r}: its value is a JSON {found}, not a number; nothing "
                f"was changed. Put a number there first, or change it with state.update"
            )
        raise InvalidValue(
            f"increment of state {key!r} by {by!r}: the sum would leave ±(2⁶³ − 1), or has left "
            f"it already; nothing was changed"
        )

    return write(
        "state_increment",
        {
            "key": check_key(key),
            "by": encode(by, "by", limit=codec.max_bytes),
            "ttl": ttl,
            "limit": str(NUMBER_LIMIT),
        }
        | recording.params(codec, PUT_TYPE, None),
        parse,
        f"increment state {key!r}",
        Retry.UNSAFE,
    )


def number_text(entry: StateEntry) -> str:
    """The JSON text of a number."""
    return encode(entry.value, "value", limit=DEFAULT_MAX_BYTES)
