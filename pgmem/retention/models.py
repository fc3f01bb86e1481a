"""The rules of what is kept, and what their application has come to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

PolicyKind = Literal["events", "folds", "snapshots"]


class Policy(NamedTuple):
    """A rule of retention: what exceeds one of its two limits goes.

    Attributes:
        kind: of "events", "folds" (their snapshots) or "snapshots" (of the whole state).
        name: of this stream, fold, or name of snapshots; None for all.
        max_count: so many of the newest are kept; None for any number.
        max_age: what is older than so many seconds goes; None for any age.
        updated_at: when the rule was set.
    """

    kind: PolicyKind
    name: str | None
    max_count: int | None
    max_age: float | None
    updated_at: datetime


class Holder(NamedTuple):
    """A stored reader that has yet to read what a rule would remove.

    Attributes:
        kind: "subscription" or "group".
        name: its name.
        position: everything up to it has been read: nothing above it was removed.
    """

    kind: Literal["subscription", "group"]
    name: str
    position: int


class StreamTrim(NamedTuple):
    """What a trim removed of one stream, or of the whole log; in a dry run, what it would remove.

    Attributes:
        stream: the stream; None for the whole log.
        removed: how many events.
        first, last: the lowest and the highest position removed; None if there was none.
        kept: events that were due and stay: handed out by a group and not acknowledged, dead
            letters, the last event of a versioned stream.
        held_back_by: the slowest of those that have yet to read what else is due; None if that is
            nobody.
        files: what the removed events were written to, with `export=`.
    """

    stream: str | None
    removed: int
    first: int | None
    last: int | None
    kept: int
    held_back_by: Holder | None
    files: tuple[str, ...] = ()


class TrimReport(NamedTuple):
    """What a trim did.

    Attributes:
        dry_run: nothing was removed: the report tells what would have been.
        streams: an entry for each rule that was applied.
    """

    dry_run: bool
    streams: tuple[StreamTrim, ...]

    @property
    def removed(self) -> int:
        """How many events in all."""
        return sum(stream.removed for stream in self.streams)


class SweepReport(NamedTuple):
    """What was swept beside the log.

    Attributes:
        expired_keys: idempotency keys whose time was over.
        expired_entries: state entries whose time was over.
        leases: leases that nobody had held or waited for, for a day.
        limits: rate limits that nobody had used for a day.
        slots: rows of groups that had been empty for long.
        folds: snapshots of folds that exceeded their rule.
        snapshots: copies of the whole state that exceeded theirs.
        complete: False if a table was so large that only a part of it was looked through.
    """

    expired_keys: int
    expired_entries: int
    leases: int
    limits: int
    slots: int
    folds: int
    snapshots: int
    complete: bool


class MaintenanceReport(NamedTuple):
    """What one pass of maintenance did.

    Attributes:
        trimmed: what the rules for events removed.
        swept: what was swept beside the log.
        vacuumed: the tables whose dead rows' room was made usable again.
    """

    trimmed: TrimReport
    swept: SweepReport
    vacuumed: tuple[str, ...]


class RestoreReport(NamedTuple):
    """What was restored from a file.

    Attributes:
        stream: the stream that the events had been removed from; None for the whole log.
        restored: how many events were put back.
        present: how many were there already.
        complete: whether the log counts as complete again from before the file on: it was what had
            been removed last.
    """

    stream: str | None
    restored: int
    present: int
    complete: bool
