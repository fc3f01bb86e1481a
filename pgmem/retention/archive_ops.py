"""The contents of an archive: removed events in a file.

A file is compressed JSON, one object a line. The first line names the log, the stream, the number
of events and the low-water marks. Each further line is an event.

`log` is the log's id. A copy or a backup has the same one, so the file fits there, too. `before`
and `after` are the low-water marks, which are rows of `trimmed`. A restore sets the mark back to
`before` if it is still at `after`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import orjson

from pgmem.core.arrays import JsonColumn
from pgmem.core.history import History
from pgmem.core.names import NAME_BYTES, STREAM_BYTES
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.errors import Conflict, InvalidInput

FORMAT: Final = 1
SUFFIX: Final = ".jsonl.gz"
MAX_UNPACKED: Final = 2**30
"""Bytes. The server takes no larger parameter, so no larger file could be put back."""
MAX_RESTORED: Final = 2**53
"""The highest position of a file. A forged one near the end of the sequence would end the log."""
_SHOWN: Final = 80
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_NONE: Final = type(None)
_HEADER: Final[dict[str, tuple[type, ...]]] = {
    "pgmem_archive": (int,), "schema": (str,), "log": (str,), "stream": (str, _NONE),
    "system_identifier": (int,), "timeline": (int, _NONE), "count": (int,), "first": (int,),
    "last": (int,), "before": (dict, _NONE), "after": (dict,), "sha256": (str,),
}  # fmt: skip
_COLUMNS: Final[dict[str, tuple[type, ...]]] = {
    "position": (int,), "stream": (str,), "stream_version": (int, _NONE), "type": (str,),
    "agent_id": (str, _NONE), "payload": (str,), "metadata": (str, _NONE),
    "state_key": (str, _NONE), "state_version": (int, _NONE), "state_deleted": (bool, _NONE),
    "state_value": (str, _NONE), "state_expires_at": (str, _NONE), "recorded_at": (str,),
}  # fmt: skip
_BYTES: Final = {
    "stream": STREAM_BYTES, "type": NAME_BYTES, "agent_id": NAME_BYTES, "state_key": NAME_BYTES,
}  # fmt: skip


class LowWaterMark(NamedTuple):
    """A row of `trimmed`.

    Attributes:
        position: the highest removed position.
        removed: the number of removed events.
    """

    position: int
    removed: int


class Origin(NamedTuple):
    """The log that events are removed from.

    Attributes:
        log: the log's id.
        history: its history.
        low_water: the low-water mark before; None for none.
    """

    log: str
    history: History
    low_water: LowWaterMark | None


class Archive(NamedTuple):
    """The contents of a file.

    Attributes:
        schema: the schema of the events.
        origin: the log of the events.
        stream: the stream that was trimmed; '' for the whole log.
        first, last: the lowest and the highest position.
        lines: the events as JSON.
    """

    schema: str
    origin: Origin
    stream: str
    first: int
    last: int
    lines: list[str]

    @property
    def after(self) -> LowWaterMark:
        """The low-water mark after these events are removed."""
        position, removed = self.origin.low_water or LowWaterMark(0, 0)
        return LowWaterMark(max(position, self.last), removed + len(self.lines))

    @property
    def name(self) -> str:
        """The file's name. Files of one stream sort by their positions."""
        scope = quote(self.stream, safe="") if self.stream else "@all"
        if len(scope) > _SHOWN:
            scope = f"{scope[:_SHOWN]}~{hashlib.sha256(self.stream.encode()).hexdigest()[:8]}"
        return f"{self.schema}.{scope}.{self.first:012}-{self.last:012}"


def pack(archive: Archive) -> bytes:
    """Return the bytes of a file."""
    lines = "".join(f"{line}\n" for line in archive.lines).encode()
    before = archive.origin.low_water
    header = {
        "pgmem_archive": FORMAT,
        "schema": archive.schema,
        "log": archive.origin.log,
        "stream": archive.stream or None,
        **archive.origin.history._asdict(),
        "count": len(archive.lines),
        "first": archive.first,
        "last": archive.last,
        "before": None if before is None else before._asdict(),
        "after": archive.after._asdict(),
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    return gzip.compress(orjson.dumps(header) + b"\n" + lines, mtime=0)


def unpack(data: bytes, path: str) -> Archive:
    """Read the bytes of a file.

    Args:
        data: the bytes.
        path: the file's path, for messages.

    Raises:
        InvalidInput: `pack` did not make them.
    """
    if not data:
        raise _invalid(path, "it is empty: an export ended early, and its events are in the log")
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _invalid(path, f"it is damaged, or no gzip file ({error})") from None
    if len(text) > MAX_UNPACKED:
        raise _invalid(
            path, f"it unpacks to more than {MAX_UNPACKED:,} bytes, which no export does"
        )
    first, _, rest = text.partition(b"\n")
    header = _object(first, _HEADER)
    if header is None or header["pgmem_archive"] != FORMAT:
        raise _invalid(path, f"its first line is not that of an archive of format {FORMAT}")
    if hashlib.sha256(rest).hexdigest() != header["sha256"]:
        raise _invalid(path, "its events were changed after it was written")
    try:
        marks = [
            None if header[name] is None else LowWaterMark(**header[name])
            for name in ("before", "after")
        ]
    except TypeError:
        raise _invalid(path, "its first line lacks the low-water marks") from None
    history = History(header["system_identifier"], header["timeline"])
    if _UUID.fullmatch(header["log"]) is None:
        raise _invalid(path, "its first line lacks the id of the log")
    archive = Archive(
        header["schema"],
        Origin(header["log"], history, marks[0]),
        header["stream"] or "",
        header["first"],
        header["last"],
        rest.decode(errors="replace").split("\n")[:-1],
    )
    _check(archive, path, count=header["count"], after=marks[1])
    return archive


def _check(archive: Archive, path: str, *, count: int, after: LowWaterMark | None) -> None:
    """Check the events against the first line."""
    before = 0
    for number, line in enumerate(archive.lines, start=2):
        event = _object(line.encode(), _COLUMNS)
        if event is None or event["position"] <= before:
            raise _invalid(path, f"line {number} is no event, or out of order")
        if event["position"] > MAX_RESTORED:
            raise _invalid(path, f"line {number} has a position above {MAX_RESTORED:,}")
        if not _storable(event):
            raise _invalid(path, f"line {number} has a name or a version that no event can have")
        if archive.stream and event["stream"] != archive.stream:
            raise _invalid(path, f"line {number} is of another stream")
        if before == 0 and event["position"] != archive.first:
            raise _invalid(path, "its first event is not the one that its first line names")
        before = event["position"]
    if (before, len(archive.lines), archive.after) != (archive.last, count, after):
        raise _invalid(path, "its events are not those that its first line names")


def _storable(event: dict[str, Any]) -> bool:
    """Return True if names and versions are such as the library writes; the table takes any."""
    names = all(
        event[name] is None or 1 <= len(event[name].encode()) <= limit
        for name, limit in _BYTES.items()
    )
    versions = [event[name] for name in ("stream_version", "state_version")]
    return (
        names
        and all(version is None or version > 0 for version in versions)
        and (event["state_version"] is None or event["state_key"] is not None)
    )


def _object(line: bytes, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any] | None:
    """Return the JSON object of a line if it has these keys and types, or None."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return None
    if type(found) is not dict or found.keys() != kinds.keys():
        return None
    return found if all(type(found[name]) in kinds[name] for name in kinds) else None


def _invalid(path: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be restored: {reason}. Nothing was changed. Take an unchanged file that "
        f"trim(export=…) has written"
    )


def read_origin(stream: str) -> Op[Origin]:
    """Return the log's id, its history and its low-water mark."""

    def parse(rows: Sequence[Row]) -> Origin:
        log, system_identifier, timeline, position, removed = rows[0][:5]
        if log is None:  # Another process has just set the id.
            raise RetryStatement
        before = None if position is None else LowWaterMark(position, removed)
        return Origin(log, History(system_identifier, timeline), before)

    return Op("archive_origin", {"stream": stream}, parse, "read the log's id", Retry.IDEMPOTENT)


def read_lines(positions: Sequence[int]) -> Op[list[tuple[int, str]]]:
    """Return events as lines of a file: the position and the line of each that is in the log."""
    return Op(
        "archive_lines",
        {"positions": list(positions)},
        lambda rows: [(row[0], row[1]) for row in rows],
        "read the events to archive",
    )


class Target(NamedTuple):
    """The log that a file is restored into.

    Attributes:
        log: the log's id; None if it has none.
        empty: True if it holds no event and none was ever removed.
        head: the highest drawn position.
    """

    log: str | None
    empty: bool
    head: int


def read_target() -> Op[Target]:
    """Return the log that a file is restored into."""
    return Op("restore_target", {}, lambda rows: Target(*rows[0]), "read the log's id")


def lock_writers() -> Op[None]:
    """Keep writers out until the transaction ends."""
    return Op("restore_lock", {}, lambda rows: None, "lock out writers", bounded=False)


def limit_lock_wait() -> Op[None]:
    """Let the lock of this transaction wait for a second only: writers queue behind it."""
    return Op("restore_lock_timeout", {}, lambda rows: None, "limit the wait for writers")


def read_blockers() -> Op[str]:
    """Name the sessions that hold a lock on the events that keeps a restore out."""

    def parse(rows: Sequence[Row]) -> str:
        return ", ".join(f"pid {pid} (role {role})" for pid, role in rows) or "none any more"

    return Op("restore_blockers", {}, parse, "find what holds up a restore")


def foreign_error(path: str) -> Conflict:
    """Build the error for a file of another log."""
    return Conflict(
        f"{path} comes from another log, and this one is not empty. Restore it into its own log, "
        f"or into a new schema"
    )


def refused_error(path: str, error: Exception) -> InvalidInput:
    """Build the error for a file with an event that the server refuses."""
    return _invalid(path, f"the server refuses one of its events ({error})")


def adopt(archive: Archive) -> Op[None]:
    """Make an empty log the one that a file comes from, without the file's events."""
    return Op(
        "restore_adopt",
        {
            "log": archive.origin.log,
            "stream": archive.stream,
            "position": archive.after.position,
            "removed": archive.after.removed,
        },
        lambda rows: None,
        "give this log the id of the file's log",
        Retry.IDEMPOTENT,
    )


def raise_head(archive: Archive) -> Op[None]:
    """Raise the head to the last position of a file."""
    return Op(
        "restore_head",
        {"last": archive.last},
        lambda rows: None,
        "raise the head to the end of the file",
        Retry.IDEMPOTENT,
    )


def restore(archive: Archive, path: str) -> Op[tuple[int, bool]]:
    """Put the events of a file back.

    `parse` returns the number of restored events, and True if the low-water mark went back.

    Raises (from `parse`):
        Conflict: other events have these positions or versions.
    """
    before, after = archive.origin.low_water, archive.after

    def parse(rows: Sequence[Row]) -> tuple[int, bool]:
        restored, others, complete = rows[0][:3]
        if others:
            raise Conflict(
                f"{path} cannot be restored: other events have the positions {others} and perhaps "
                f"more. Nothing was changed. The file is of another log, or the log's end was lost "
                f"and written anew"
            )
        return restored, complete

    return Op(
        "restore_events",
        {
            "lines": JsonColumn(archive.lines),
            "stream": archive.stream,
            "position_before": None if before is None else before.position,
            "removed_before": None if before is None else before.removed,
            "position_after": after.position,
            "removed_after": after.removed,
        },
        parse,
        f"restore {len(archive.lines)} events",
        Retry.IDEMPOTENT,
        bounded=False,
    )
