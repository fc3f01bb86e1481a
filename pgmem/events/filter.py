"""`EventFilter`: which events a reader wants.

A filter becomes text of a statement for reads, and a test of a row for events that arrive with a
notification. Both forms must agree, because a subscription uses both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from pgmem.core.context import CAUSE, RUN_ID
from pgmem.core.names import NAME_BYTES, STREAM_BYTES
from pgmem.core.op import Row
from pgmem.core.validation import (
    after_prefix,
    check_count,
    check_name,
    check_position,
    check_prefix,
)
from pgmem.errors import InvalidInput
from pgmem.events.columns import AGENT_ID, METADATA, STATE_KEY, STREAM, TYPE

MAX_NAMES = 1_000

Names = str | Sequence[str]
"""One name or several."""

Fragments = tuple[tuple[str, str], ...]
"""Pieces of a statement; see `pgmem.core.op.Op`."""

# Field, column, parameter of one name, parameter of several.
_NAMED = (
    ("streams", STREAM, "stream", "streams"),
    ("types", TYPE, "type", "types"),
    ("agents", AGENT_ID, "agent_id", "agent_ids"),
)
_FIELDS = ("streams", "prefix", "types", "agents", "key_prefix", "runs", "cause")
# As in the indexes. The text of a value in the metadata, whatever its type.
_RUN = """(metadata ->> 'run_id') COLLATE "C\""""
_CAUSE = """(metadata ->> 'cause') COLLATE "C\""""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Select events by stream, type, agent, run and cause.

    An event passes if it passes every field that is given. None selects all.

    Attributes:
        streams: names of streams, at most 1,000.
        prefix: beginning of the stream's name. Excludes `streams`.
        types: event types, at most 1,000.
        agents: agent ids, at most 1,000.
        key_prefix: beginning of the key of the state entry that the event changed.
        runs: ids of agents' runs, at most 1,000.
        cause: the position of the event that they follow from.

    Raises:
        InvalidInput: a name that cannot be one.
        InvalidInput: no name in a field, too many, or `streams` and `prefix` together.
    """

    streams: Sequence[str] | None = None
    prefix: str | None = None
    types: Sequence[str] | None = None
    agents: Sequence[str] | None = None
    key_prefix: str | None = None
    runs: Sequence[str] | None = None
    cause: int | None = None
    _params: dict[str, Any] = field(init=False, repr=False, compare=False)
    _fragments: tuple[Fragments, Fragments] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.streams is not None and self.prefix is not None:
            raise InvalidInput("give stream= or prefix=, not both")
        for name, _, what, _ in _NAMED:
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _check_names(given, what))
        for name in ("prefix", "key_prefix"):
            given = getattr(self, name)
            if given is not None:
                check_prefix(given, "prefix")
        if self.runs is not None:
            object.__setattr__(self, "runs", _check_names(self.runs, "run_id"))
        if self.cause is not None:
            check_position(self.cause, "cause")
        # Made once, because each read needs them.
        object.__setattr__(self, "_params", self._make_params())
        made = self._make_fragments(in_order=False), self._make_fragments(in_order=True)
        object.__setattr__(self, "_fragments", made)

    @classmethod
    def of(
        cls,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
    ) -> EventFilter:
        """Return the filter for the keywords that the verbs share.

        Raises:
            InvalidInput: a name that cannot be one.
            InvalidInput: no name where a sequence is given, too many, or `stream` and `prefix`.
        """
        if stream is prefix is type is agent_id is run_id is None and cause is None:
            return EVERYTHING
        try:
            return _made(stream, prefix, type, agent_id, run_id, cause)
        except TypeError:  # A list of names is no key of a cache.
            return _make(stream, prefix, type, agent_id, run_id, cause)

    @property
    def selects_all(self) -> bool:
        """True if no event is left out. Only then a missing position is a gap in the log."""
        return not self._params

    def fragments(self, *, in_order: bool = False) -> Fragments:
        """Return the statement's conditions. Their texts are fixed, names are parameters.

        Args:
            in_order: the statement reads a page in the order of positions. A condition that no
                index serves in that order then has a form that no index serves at all and that
                the planner takes for unselective, whatever its statistics. So it walks the primary
                key. Before the first ANALYZE it would read and sort all selected events instead.
        """
        return self._fragments[in_order]

    def _make_fragments(self, *, in_order: bool) -> Fragments:
        conditions: list[str] = []
        trimmed: list[str] = []
        for name, _, one, several in _NAMED:
            names = getattr(self, name)
            if names is not None:
                single = len(names) == 1
                among = f"{one} = %({one})s" if single else f"{one} = ANY (%({several})s)"
                conditions.append(among if single or not in_order else f"({among})::int <> 0")
                if name == "streams":
                    trimmed.append(among)
        for name, column in (("prefix", "stream"), ("key_prefix", "state_key")):
            if getattr(self, name) is not None:
                begins = (
                    f"{column} >= %({name})s"
                    f" AND (%({name}_end)s::text IS NULL OR {column} < %({name}_end)s)"
                )
                conditions.append(f"({begins})::int <> 0" if in_order else begins)
                if name == "prefix":
                    trimmed.append(begins)
        if self.runs is not None:
            single = len(self.runs) == 1
            among = f"{_RUN} = %(run_id)s" if single else f"{_RUN} = ANY (%(run_ids)s)"
            conditions.append(among if single or not in_order else f"({among})::int <> 0")
        if self.cause is not None:
            conditions.append(f"{_CAUSE} = %(cause)s")
        # A trim concerns every reader that may have wanted an event of the trimmed stream.
        return (
            ("filter", "".join(f" AND {condition}" for condition in conditions)),
            ("trimmed", f"AND (stream = '' OR ({' AND '.join(trimmed)}))" if trimmed else ""),
        )

    def params(self) -> dict[str, Any]:
        """Return the parameters of `fragments`. The caller must not change them."""
        return self._params

    def _make_params(self) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for name, _, one, several in _NAMED:
            names = getattr(self, name)
            if names is not None and len(names) == 1:
                params[one] = names[0]
            elif names is not None:
                params[several] = list(names)
        if self.runs is not None and len(self.runs) == 1:
            params["run_id"] = self.runs[0]
        elif self.runs is not None:
            params["run_ids"] = list(self.runs)
        if self.cause is not None:
            params["cause"] = str(self.cause)
        for name in ("prefix", "key_prefix"):
            prefix = getattr(self, name)
            if prefix is not None:
                params |= {name: prefix, f"{name}_end": after_prefix(prefix)}
        return params

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are given, as a JSON object."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value is not None
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> EventFilter:
        """Return the filter that `to_json` described.

        Raises:
            InvalidInput: a field that this version does not know, or that is invalid.
        """
        if unknown := sorted(stored.keys() - set(_FIELDS)):
            raise InvalidInput(f"a filter by {', '.join(unknown)} is not known")
        return cls(**stored)

    def test(self) -> Callable[[Row], bool] | None:
        """Return a function that is True for a selected row, or None if all are selected."""
        tests: list[Callable[[Row], bool]] = []
        for name, column, _, _ in _NAMED:
            names = getattr(self, name)
            if names is not None:
                tests.append(_is_among(column, names))
        if self.prefix:
            beginning = self.prefix
            tests.append(lambda row: row[STREAM].startswith(beginning))
        if self.key_prefix is not None:
            key = self.key_prefix
            tests.append(lambda row: row[STATE_KEY] is not None and row[STATE_KEY].startswith(key))
        if self.runs is not None:
            tests.append(_has_metadata(RUN_ID, self.runs))
        if self.cause is not None:
            tests.append(_has_metadata(CAUSE, (str(self.cause),)))
        if len(tests) < 2:
            return tests[0] if tests else None
        return lambda row: all(test(row) for test in tests)


EVERYTHING = EventFilter()


def _make(  # noqa: PLR0917  # positional, because they are the key of a cache
    stream: Names | None,
    prefix: str | None,
    type: Names | None,
    agent_id: Names | None,
    run_id: Names | None,
    cause: int | None,
) -> EventFilter:
    return EventFilter(
        _sequence(stream),
        prefix,
        _sequence(type),
        _sequence(agent_id),
        runs=_sequence(run_id),
        cause=cause,
    )


_made = lru_cache(maxsize=256, typed=True)(_make)  # typed, because True equals 1


def _sequence(names: Names | None) -> Sequence[str] | None:
    return (names,) if isinstance(names, str) else names


def _check_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names sorted, each once."""
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        raise InvalidInput(f"{what} is a name or a sequence of names, got {type(names).__name__}")
    check_count(len(names), f"number of names in {what}", minimum=1, maximum=MAX_NAMES)
    most = STREAM_BYTES if what == "stream" else NAME_BYTES
    return tuple(sorted({check_name(name, what, most=most) for name in names}))


def _is_among(column: int, names: Sequence[str]) -> Callable[[Row], bool]:
    if len(names) == 1:
        (wanted,) = names
        return lambda row: bool(row[column] == wanted)
    among = frozenset(names)
    return lambda row: row[column] in among


def _has_metadata(name: str, texts: Sequence[str]) -> Callable[[Row], bool]:
    """Return a test of one value in an event's metadata, by its text as `->>` gives it."""
    among, quoted = frozenset(texts), f'"{name}"'

    def test(row: Row) -> bool:
        text = row[METADATA]
        if text is None or (quoted not in text and "\\" not in text):
            return False  # Without an escape a name has one spelling.
        value = orjson.loads(text).get(name)
        if value is None:
            return False
        return (value if isinstance(value, str) else orjson.dumps(value).decode()) in among

    return test
