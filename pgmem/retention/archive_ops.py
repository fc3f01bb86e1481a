"""Archives: removed events in a file, and how they come back.

A file is compressed JSON, one object a line. The first line tells where the rest is from::

    {"pgmem_archive": 1, "schema": "pgmem", "log": "9f0c…", "stream": null,
     "system_identifier": 74321…, "timeline": 1, "count": 5000, "first": 1, "last": 5003,
     "before": null, "after": {"position": 5003, "removed": 5000}, "sha256": "…"}
    {"position": 1, "stream": "payments", …, "payload": "{\"amount\": 5}", …}
    …

`log` is the number of the log: a copy or a backup of it keeps that, so the file fits there, too.
`before` and `after` are the row in `trimmed`: the mark goes back if it is as the file left it.

Makes and reads bytes, and says what to run; files and servers are `pgmem.retention.archive`'s
matter.
"""

from __future__ import annotations

import gzip
import hashlib
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


class Mark(NamedTuple):
    """The row in `trimmed`.

    Attributes:
        position: up to where events have been removed.
        removed: how many.
    """

    position: int
    removed: int


class Place(NamedTuple):
    """Where events are removed from.

    Attributes:
        log: the number of the log.
        history: the history that it has.
        mark: what had been removed before; None for nothing.
    """

    log: str
    history: History
    mark: Mark | None


class Archive(NamedTuple):
    """What is in a file.

    Attributes:
        schema: where the events were.
        place: likewise, and what had been removed before them.
        stream: the stream that was trimmed; '' for the whole log.
        first, last: the lowest and the highest position.
        lines: the events, as JSON.
    """

    schema: str
    place: Place
    stream: str
    first: int
    last: int
    lines: list[str]

    @property
    def after(self) -> Mark:
        """The mark once these events are removed."""
        position, removed = self.place.mark or Mark(0, 0)
        return Mark(max(position, self.last), removed + len(self.lines))

    @property
    def name(self) -> str:
        """A name for the file: of the same scope, they sort by their positions."""
        scope = quote(self.stream, safe="") if self.stream else "@all"
        if len(scope) > _SHOWN:
            scope = f"{scope[:_SHOWN]}~{hashlib.sha256(self.stream.encode()).hexdigest()[:8]}"
        return f"{self.schema}.{scope}.{self.first:012}-{self.last:012}"


def pack(archive: Archive) -> bytes:
    """The bytes of a file."""
    lines = "".join(f"{line}\n" for line in archive.lines).encode()
    mark = archive.place.mark
    header = {
        "pgmem_archive": FORMAT,
        "schema": archive.schema,
        "log": archive.place.log,
        "stream": archive.stream or None,
        **archive.place.history._asdict(),
        "count": len(archive.lines),
        "first": archive.first,
        "last": archive.last,
        "before": None if mark is None else mark._asdict(),
        "after": archive.after._asdict(),
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    return gzip.compress(orjson.dumps(header) + b"\n" + lines, mtime=0)


def unpack(data: bytes, path: str) -> Archive:
    """What the bytes of a file say.

    Args:
        path: where they are from, for messages.

    Raises:
        InvalidInput: they are not what `pack` made.
    """
    if not data:
        raise _invalid(path, "it is empty: an export ended here, and its events were not removed")
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise _invalid(path, f"it is damaged, or no gzip file ({error})") from None
    first, _, rest = text.partition(b"\n")
    header = _object(first, _HEADER)
    if header is None or header["pgmem_archive"] != FORMAT:
        raise _invalid(path, f"its first line is none of an archive of form {FORMAT}")
    if hashlib.sha256(rest).hexdigest() != header["sha256"]:
        raise _invalid(path, "its events are not those that were written: it was changed")
    try:
        marks = [
            None if header[name] is None else Mark(**header[name]) for name in ("before", "after")
        ]
    except TypeError:
        raise _invalid(path, "its first line lacks what was removed before and after") from None
    history = History(header["system_identifier"], header["timeline"])
    if _UUID.fullmatch(header["log"]) is None:
        raise _invalid(path, "its first line does not say which log it is from")
    archive = Archive(
        header["schema"],
        Place(header["log"], history, marks[0]),
        header["stream"] or "",
        header["first"],
        header["last"],
        rest.decode(errors="replace").split("\n")[:-1],
    )
    _check(archive, path, count=header["count"], after=marks[1])
    return archive


def _check(archive: Archive, path: str, *, count: int, after: Mark | None) -> None:
    """See that the events are what the first line says of them."""
    before = 0
    for number, line in enumerate(archive.lines, start=2):
        event = _object(line.encode(), _COLUMNS)
        if event is None or event["position"] <= before:
            raise _invalid(path, f"line {number} is no event, or not in its place")
        if not _storable(event):
            raise _invalid(path, f"line {number} has a name or a version that no event can have")
        if archive.stream and event["stream"] != archive.stream:
            raise _invalid(path, f"line {number} is of another stream")
        if before == 0 and event["position"] != archive.first:
            raise _invalid(path, "it does not begin where its first line says")
        before = event["position"]
    if (before, len(archive.lines), archive.after) != (archive.last, count, after):
        raise _invalid(path, "it does not hold what its first line says")


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
    """The JSON object of a line, if it has these keys and types of values."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return None
    if type(found) is not dict or found.keys() != kinds.keys():
        return None
    return found if all(type(found[name]) in kinds[name] for name in kinds) else None


def _invalid(path: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be restored: {reason}. Take a file that trim(export=…) has written, as it "
        f"was written; nothing was changed"
    )


def read_place(stream: str) -> Op[Place]:
    """Which log this is, and what has been removed of it."""

    def parse(rows: Sequence[Row]) -> Place:
        log, system_identifier, timeline, position, removed = rows[0][:5]
        if log is None:  # Another one has just numbered it.
            raise RetryStatement
        mark = None if position is None else Mark(position, removed)
        return Place(log, History(system_identifier, timeline), mark)

    return Op("trim_place", {"stream": stream}, parse, "see which log this is", Retry.IDEMPOTENT)


def read_lines(positions: Sequence[int]) -> Op[list[tuple[int, str]]]:
    """Events as lines of a file: the position and the line of each that is still there."""
    return Op(
        "trim_lines",
        {"positions": list(positions)},
        lambda rows: [(row[0], row[1]) for row in rows],
        "read the events that are to be removed",
    )


class Target(NamedTuple):
    """Where a file is to be restored.

    Attributes:
        log: the number of the log; None if it never had one.
        empty: it holds no event, and none was ever removed.
        head: how far positions have been drawn.
    """

    log: str | None
    empty: bool
    head: int


def read_target() -> Op[Target]:
    """Which log a file is to be restored into."""
    return Op("restore_place", {}, lambda rows: Target(*rows[0]), "see which log this is")


def keep_out() -> Op[None]:
    """Keep writers out until the transaction ends."""
    return Op("restore_lock", {}, lambda rows: None, "keep writers out", bounded=False)


def foreign_error(path: str) -> Conflict:
    """The error of a file that belongs to another log than the one that is there."""
    return Conflict(
        f"{path} comes from another log, and this one is not empty: events of two logs cannot "
        f"stand in one. Restore it into the log that it comes from, or into a new schema"
    )


def refused_error(path: str, error: Exception) -> InvalidInput:
    """The error of a file with an event that cannot be in a log."""
    return _invalid(path, f"the server takes an event in it for none ({error})")


def adopt(archive: Archive) -> Op[None]:
    """Make an empty log the one that a file comes from, as it was without the file's events."""
    return Op(
        "restore_adopt",
        {
            "log": archive.place.log,
            "stream": archive.stream,
            "position": archive.after.position,
            "removed": archive.after.removed,
        },
        lambda rows: None,
        "make this log the one that the file comes from",
        Retry.IDEMPOTENT,
    )


def raise_head(archive: Archive) -> Op[None]:
    """Draw the positions up to the last one of a file."""
    return Op(
        "restore_head",
        {"last": archive.last},
        lambda rows: None,
        "draw the positions of the file",
        Retry.IDEMPOTENT,
    )


def restore(archive: Archive, path: str) -> Op[tuple[int, bool]]:
    """Put the events of a file back; tells how many were missing, and whether the mark went back.

    Raises (from `parse`):
        Conflict: another event stands in the place of one.
    """
    before, after = archive.place.mark, archive.after

    def parse(rows: Sequence[Row]) -> tuple[int, bool]:
        number, others, lowered = rows[0][:3]
        if others:
            raise Conflict(
                f"{path} cannot be restored: other events stand at the positions {others} and "
                f"perhaps more. This is not the log that it comes from, or its end was lost and "
                f"written anew; nothing was changed"
            )
        return number, lowered

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
