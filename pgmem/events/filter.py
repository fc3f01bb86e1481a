"""Which events a reader wants: as a filter of a statement, and as a test of a row.

Both forms must agree: a subscription reads by the one and follows by the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pgmem.core.names import STREAM_BYTES
from pgmem.core.op import Row
from pgmem.core.validation import (
    MAX_POSITION,
    after_prefix,
    check_count,
    check_name,
    check_position,
    check_prefix,
)
from pgmem.errors import InvalidInput
from pgmem.events.columns import AGENT_ID, STATE_KEY, STREAM, TYPE

MAX_STREAMS = 1_000

_FILTERS = {
    "stream": "AND stream = %(stream)s",
    "streams": "AND stream = ANY (%(streams)s)",
    "prefix": "AND stream >= %(prefix)s AND (%(prefix_end)s::text IS NULL"
    " OR stream < %(prefix_end)s)",
    "type": "AND type = %(type)s",
    "agent_id": "AND agent_id = %(agent_id)s",
    "key_prefix": "AND state_key >= %(key_prefix)s AND (%(key_prefix_end)s::text IS NULL"
    " OR state_key < %(key_prefix_end)s)",
}
# What retention removed of a stream is missed by all who may have wanted events of it.
_TRIMMED = {name: _FILTERS[name] for name in ("stream", "streams", "prefix")}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events to read: all that are None do not filter.

    Attributes:
        stream, type, agent_id: exact names.
        after: positions above it.
        until: positions up to and including it.
        streams: any of these streams.
        prefix: streams whose name begins so.
        key_prefix: changes of state entries whose key begins so.
    """

    stream: str | None = None
    type: str | None = None
    agent_id: str | None = None
    after: int = 0
    until: int = MAX_POSITION
    streams: tuple[str, ...] | None = None
    prefix: str | None = None
    key_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.stream is not None:
            check_name(self.stream, "stream", most=STREAM_BYTES)
        for name in ("type", "agent_id"):
            if getattr(self, name) is not None:
                check_name(getattr(self, name), name)
        check_position(self.after, "after")
        check_position(self.until, "until")
        if self.prefix is not None:
            check_prefix(self.prefix, "prefix")
        if self.key_prefix is not None:
            check_prefix(self.key_prefix, "prefix")

    @classmethod
    def of(
        cls,
        stream: str | Sequence[str] | None,
        *,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
    ) -> Selection:
        """The selection that a subscriber describes.

        Raises:
            InvalidInput: a name that cannot be one.
            InvalidInput: stream and prefix together, no stream, or too many.
        """
        if stream is not None and prefix is not None:
            raise InvalidInput("give stream= or prefix=, not both")
        if stream is None or isinstance(stream, str):
            return cls(stream, type, agent_id, prefix=prefix)
        if not isinstance(stream, Sequence):
            raise InvalidInput(
                f"stream is a name or a sequence of names, got {stream.__class__.__name__}"
            )
        check_count(len(stream), "number of streams", minimum=1, maximum=MAX_STREAMS)
        names = tuple(sorted({check_name(s, "stream", most=STREAM_BYTES) for s in stream}))
        return cls(None, type, agent_id, streams=names)

    @property
    def filtered(self) -> bool:
        """Whether some events are left out, so that a gap in the positions means nothing."""
        return any(getattr(self, name) is not None for name in _FILTERS)

    def fragments(self) -> tuple[tuple[str, str], ...]:
        """The statement's filters: each text is fixed, the names travel as parameters."""
        chosen = [name for name in _FILTERS if getattr(self, name) is not None]
        trimmed = " ".join(_TRIMMED[name] for name in chosen if name in _TRIMMED)
        return (
            ("filter", " ".join(_FILTERS[name] for name in chosen)),
            ("trimmed", trimmed and f"AND (stream = '' OR (true {trimmed}))"),
        )

    def params(self) -> dict[str, Any]:
        """The statement's parameters."""
        params: dict[str, Any] = {
            "stream": self.stream,
            "type": self.type,
            "agent_id": self.agent_id,
            "after": self.after,
            "until": self.until,
        }
        if self.streams is not None:
            params["streams"] = list(self.streams)
        if self.prefix is not None:
            params |= {"prefix": self.prefix, "prefix_end": after_prefix(self.prefix)}
        if self.key_prefix is not None:
            params |= {
                "key_prefix": self.key_prefix,
                "key_prefix_end": after_prefix(self.key_prefix),
            }
        return params

    def described(self) -> dict[str, Any]:
        """What is selected, as JSON: without the positions."""
        names = {name: getattr(self, name) for name in _FILTERS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in names.items()
            if value is not None
        }

    @classmethod
    def of_described(cls, described: dict[str, Any]) -> Selection:
        """The selection that `described` has told, the inverse of it.

        Raises:
            InvalidInput: it is none, or says more than this version knows.
        """
        if unknown := sorted(described.keys() - _FILTERS.keys()):
            raise InvalidInput(f"a selection by {', '.join(unknown)} is not known")
        names = dict(described)
        if "streams" in names:
            names["streams"] = tuple(names["streams"])
        return cls(**names)

    def test(self) -> Callable[[Row], bool] | None:
        """A function that tells whether a row is selected; None if all are."""
        tests: list[Callable[[Row], bool]] = []
        for column, wanted in (
            (STREAM, self.stream),
            (TYPE, self.type),
            (AGENT_ID, self.agent_id),
        ):
            if wanted is not None:
                tests.append(_equals(column, wanted))
        if self.streams is not None:
            among = frozenset(self.streams)
            tests.append(lambda row: row[STREAM] in among)
        if self.prefix:
            beginning = self.prefix
            tests.append(lambda row: row[STREAM].startswith(beginning))
        if self.key_prefix is not None:
            key = self.key_prefix
            tests.append(lambda row: row[STATE_KEY] is not None and row[STATE_KEY].startswith(key))
        if not tests:
            return None
        if len(tests) == 1:
            return tests[0]
        return lambda row: all(test(row) for test in tests)


def _equals(column: int, wanted: str) -> Callable[[Row], bool]:
    return lambda row: bool(row[column] == wanted)
