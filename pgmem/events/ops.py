"""Append to the log: what to run for each verb. `pgmem.events.transaction_verbs` runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import orjson

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.encoding import decode, digest_of
from pgmem.core.names import STATE_STREAM_PREFIX
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.statements import INLINE, INLINE_ALL
from pgmem.core.validation import (
    CHECKED,
    check_again,
    check_count,
    check_name,
)
from pgmem.errors import IdempotencyMismatch, InvalidInput, VersionConflict
from pgmem.events.codec import (
    Batch,
    Codec,
    encode_event,
    encode_events,
    fit_inline,
    fits_inline,
)
from pgmem.events.models import Append, Appended, Event

MAX_BATCH = 10_000

_INLINE = (INLINE,)


def check_stream(stream: str) -> str:
    """Check the name of a stream that users append to, and return it.

    Raises:
        InvalidInput: as `check_name`, or the name is reserved.
    """
    check_name(stream, "stream")
    if stream.startswith(STATE_STREAM_PREFIX):
        raise InvalidInput(
            f"stream {stream[:60]!r} begins with {STATE_STREAM_PREFIX!r}, which is reserved for "
            f"the events of state writes: use memory.state"
        )
    return stream


def _contents(types: Sequence[str], payloads: Sequence[str]) -> list[Any]:
    """Return what must be the same when an idempotency key is used again, beside the streams.

    It leaves out the agent and the metadata, because a retry may come from another agent with
    another trace id.
    """
    return [list(event) for event in zip(types, map(orjson.loads, payloads), strict=True)]


def append(stream: str, event: Event, codec: Codec) -> Op[Appended]:
    """Append one event."""
    if type(stream) is not str or stream not in CHECKED or stream.startswith(STATE_STREAM_PREFIX):
        check_stream(stream)
        check_again(stream, "stream")
    encoded = encode_event(event, codec)
    small = fits_inline(stream, encoded)
    kind, payload, agent_id, metadata = encoded
    return Op(
        "event_append",
        {
            "stream": stream,
            "type": kind,
            "payload": payload,
            "agent_id": agent_id,
            "metadata": metadata,
        },
        _parse_one,
        f"append to {stream!r}",
        Retry.UNSAFE,
        _INLINE if small else (),
        # A large one would hold up the others.
        merge=_merge_appends if small else None,
    )


def _parse_one(rows: Sequence[Row]) -> Appended:
    return _new(Appended, (rows[0][0], None, False))


_new = tuple.__new__  # Without the check of a NamedTuple's arguments.
_receipt = partial(_new, Appended)


def _merge_appends(ops: Sequence[Op[Any]]) -> Op[list[Sequence[Row]]]:
    """Return one op for several of `append`, with a row for each."""
    params = [op.params for op in ops]
    return Op(
        "event_append_each",
        {
            "streams": NameColumn([one["stream"] for one in params]),
            "types": NameColumn([one["type"] for one in params]),
            "payloads": JsonColumn([one["payload"] for one in params]),
            "agents": NameColumn([one["agent_id"] for one in params]),
            "metadata": JsonColumn([one["metadata"] for one in params]),
        },
        lambda rows: [[row] for row in rows],
        f"append {len(ops)} events",
        Retry.UNSAFE,
        _INLINE,
    )


def _inline(streams: Sequence[str], batch: Batch) -> tuple[tuple[str, str], ...]:
    """Return the fragment that sends the events with the notification, if they are small."""
    if len(batch.types) == 1:
        return _INLINE if fits_inline(streams[0], batch.first()) else ()
    return (INLINE_ALL,) if fit_inline(streams, batch) else ()


def append_many(
    stream: str,
    events: Sequence[Event],
    codec: Codec,
    *,
    expected_version: int | None = None,
    idempotency_key: str | None = None,
    ttl: float | None = None,
) -> Op[list[Appended]]:
    """Append events to one stream, all or none, in one statement.

    Raises:
        RetryStatement (from `parse`): run it again.
    """
    check_stream(stream)
    _check_batch(len(events))
    if idempotency_key is not None and expected_version is None and len(events) == 1:
        return _append_once(stream, events[0], codec, idempotency_key, ttl)
    batch = encode_events(events, codec)
    if expected_version is not None:
        check_count(expected_version, "expected_version", minimum=0)
    params = {"stream": stream, "expected_version": expected_version, **batch.params()}
    if idempotency_key is not None:
        fingerprint = digest_of([stream, _contents(batch.types, batch.payloads)])
        key = _key_params(stream, idempotency_key, fingerprint, ttl)
        return Op(
            "event_append_once",
            {**params, **key},
            _parse_once(stream, expected_version, idempotency_key, fingerprint),
            f"append to {stream!r} under the idempotency key {idempotency_key!r}",
            Retry.IDEMPOTENT,
            _inline([stream], batch),
        )
    if expected_version is not None:
        return Op(
            "event_append_versioned",
            params,
            _parse_versioned(stream, expected_version),
            f"append to {stream!r} expecting version {expected_version}",
            Retry.CONDITIONAL,
            _inline([stream], batch),
        )
    statement = "event_append_many"
    if len(set(batch.types)) == len(set(batch.agents)) == 1 and not any(batch.metadata):
        statement = "event_append_alike"
        params |= {"type": batch.types[0], "agent_id": batch.agents[0]}
    return Op(
        statement,
        params,
        lambda rows: _receipts(sorted(rows[0][0]), None),
        f"append {len(events)} events to {stream!r}",
        Retry.UNSAFE,
        (INLINE_ALL,) if fit_inline([stream], batch) else (),
    )


def _append_once(
    stream: str, event: Event, codec: Codec, idempotency_key: str, ttl: float | None
) -> Op[list[Appended]]:
    """Append one event under an idempotency key."""
    encoded = encode_event(event, codec)
    kind, payload, agent_id, metadata = encoded
    fingerprint = digest_of([stream, _contents([kind], [payload])])

    def parse(rows: Sequence[Row]) -> list[Appended]:
        position, found, stored = rows[0][:3]
        if position is not None:
            return [_new(Appended, (position, None, False))]
        if found is None:
            raise RetryStatement
        return _receipts(
            _first_positions(idempotency_key, fingerprint, found, stored), None, duplicate=True
        )

    return Op(
        "event_append_one_once",
        {
            **_key_params(stream, idempotency_key, fingerprint, ttl),
            "stream": stream,
            "type": kind,
            "payload": payload,
            "agent_id": agent_id,
            "metadata": metadata,
        },
        parse,
        f"append to {stream!r} under the idempotency key {idempotency_key!r}",
        Retry.IDEMPOTENT,
        _INLINE if fits_inline(stream, encoded) else (),
    )


def append_all(
    appends: Sequence[Append],
    codec: Codec,
    *,
    idempotency_key: str | None = None,
    ttl: float | None = None,
) -> Op[list[Appended]]:
    """Append events to several streams, all or none, in one statement.

    Raises:
        RetryStatement (from `parse`): run it again.
    """
    streams: list[str] = []
    versions: list[int | None] = []
    events: list[Event] = []
    if isinstance(appends, Mapping) or not isinstance(appends, Iterable):
        raise InvalidInput(f"append_all takes several Append, got {type(appends).__name__}")
    for part in appends:
        if not isinstance(part, Append):
            raise InvalidInput(f"append_all takes pgmem.Append, got {type(part).__name__}")
        given = sequence_of(part.events, "Append")
        if check_stream(part.stream) in streams:
            raise InvalidInput(
                f"the stream {part.stream!r} is given twice: put its events into one Append"
            )
        first = part.expected_version
        if first is not None:
            check_count(first, "expected_version", minimum=0)
        for number, event in enumerate(given, start=1):
            streams.append(part.stream)
            versions.append(None if first is None else first + number)
            events.append(event)
    _check_batch(len(events))
    batch = encode_events(events, codec)
    contents = _contents(batch.types, batch.payloads)
    fingerprint = digest_of([list(pair) for pair in zip(streams, contents, strict=True)])
    key = idempotency_key
    versioned = any(version is not None for version in versions)
    return Op(
        "event_append_all",
        {
            "streams": NameColumn(streams),
            "versions": [version or 0 for version in versions],
            **batch.params(),
            **_key_params(None, key, fingerprint, ttl),
        },
        _parse_all(versions, key, fingerprint),
        f"append to {len(appends)} streams"
        + ("" if key is None else f" under the idempotency key {key!r}"),
        Retry.IDEMPOTENT if key is not None else Retry.CONDITIONAL if versioned else Retry.UNSAFE,
        (INLINE_ALL,) if fit_inline(streams, batch) else (),
    )


def sequence_of(events: Event | Sequence[Event], verb: str) -> Sequence[Event]:
    """Return one event or several as a sequence.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(events, Event):
        return [events]
    if isinstance(events, Sequence) and not isinstance(events, str | bytes):
        return events
    raise InvalidInput(
        f"{verb} takes an Event or a sequence of events, got {type(events).__name__}"
    )


def _check_batch(size: int) -> None:
    if not size:
        raise InvalidInput("append needs at least one event, got an empty sequence")
    check_count(size, "number of events in one append", minimum=1, maximum=MAX_BATCH)


def _key_params(
    stream: str | None, key: str | None, fingerprint: bytes, ttl: float | None
) -> dict[str, Any]:
    """Return the parameters of an idempotency key.

    A key belongs to its stream; None for an append to several. Without the length, the stream "a"
    with the key "b:c" and the stream "a:b" with the key "c" would share a record.
    """
    if key is not None:
        name = check_name(key, "idempotency_key")
        key = f"*:{name}" if stream is None else f"{len(stream)}:{stream}:{name}"
    return {"key": key, "fingerprint": fingerprint, "ttl": ttl}


def _version_conflict(stream: str, expected: int, actual: int) -> VersionConflict:
    return VersionConflict(
        f"append to {stream!r} expected version {expected}, found {actual}: nothing was "
        f"appended; read the stream's newer events and decide again",
        expected=expected,
        actual=actual,
    )


def _receipts(
    positions: Sequence[int], expected_version: int | None, *, duplicate: bool = False
) -> list[Appended]:
    if expected_version is None:
        return list(map(_receipt, zip(positions, repeat(None), repeat(duplicate))))
    return [
        _new(Appended, (position, expected_version + n, duplicate))
        for n, position in enumerate(positions, start=1)
    ]


def _parse_versioned(stream: str, expected: int) -> Callable[[Sequence[Row]], list[Appended]]:
    def parse(rows: Sequence[Row]) -> list[Appended]:
        positions, version = rows[0][:2]
        if positions is not None:
            return _receipts(positions, expected)
        if version == expected:
            raise RetryStatement
        raise _version_conflict(stream, expected, version)

    return parse


def _parse_once(
    stream: str, expected_version: int | None, key: str, fingerprint: bytes
) -> Callable[[Sequence[Row]], list[Appended]]:
    def parse(rows: Sequence[Row]) -> list[Appended]:
        positions, version, found, stored = rows[0][:4]
        if positions is not None:
            return _receipts(positions, expected_version)
        if found is not None:
            first = _first_positions(key, fingerprint, found, stored)
            return _receipts(first, expected_version, duplicate=True)
        if expected_version is not None and version != expected_version:
            raise _version_conflict(stream, expected_version, version)
        raise RetryStatement

    return parse


def _parse_all(
    versions: Sequence[int | None], key: str | None, fingerprint: bytes
) -> Callable[[Sequence[Row]], list[Appended]]:
    def receipts(positions: Sequence[int], *, duplicate: bool) -> list[Appended]:
        return [
            Appended(position, version, duplicate)
            for position, version in zip(positions, versions, strict=True)
        ]

    def parse(rows: Sequence[Row]) -> list[Appended]:
        positions, stream, expected, actual, found, stored = rows[0][:6]
        if positions is not None:
            return receipts(positions, duplicate=False)
        if found is not None:
            first = _first_positions(str(key), fingerprint, found, stored)
            return receipts(first, duplicate=True)
        if stream is not None:
            raise _version_conflict(stream, expected, actual)
        raise RetryStatement

    return parse


def _first_positions(key: str, fingerprint: bytes, found: bytes, stored: str) -> list[int]:
    """Return the positions of the append that used the key first.

    Raises:
        IdempotencyMismatch: it appended something else.
    """
    if found != fingerprint:
        raise IdempotencyMismatch(
            f"append: the idempotency key {key!r} was used before for another type or "
            f"payload: nothing was appended; one key names one piece of work, use a new key for a "
            f"new one"
        )
    positions: list[int] = decode(stored)
    return positions
