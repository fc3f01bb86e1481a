"""Policies of retention, and the reports of its verbs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

PolicyKind = Literal["events", "folds", "snapshots"]


class Policy(NamedTuple):
    """A policy of retention: what exceeds one of its two limits is removed.

    Attributes:
        kind: "events", "folds" (their snapshots) or "snapshots" (of the whole state).
        name: the stream, the fold, or the name of snapshots; None for all.
        max_count: how many of the newest are kept; None for any number.
        max_age: seconds after which one is removed; None for any age.
        updated_at: when the policy was set.
    """

    kind: PolicyKind
    name: str | None
    max_count: int | None
    max_age: float | None
    updated_at: datetime


class LaggingReader(NamedTuple):
    """A durable subscription or group that has not read the events that a policy would remove.

    Attributes:
        kind: "subscription" or "group".
        name: its name.
        position: the last position that it has read. No event above it was removed.
    """

    kind: Literal["subscription", "group"]
    name: str
    position: int


class StreamTrim(NamedTuple):
    """The trim of one stream or of the whole log. In a dry run, what it would remove.

    Attributes:
        stream: the stream; None for the whole log.
        removed: the number of removed events.
        first, last: the lowest and the highest removed position; None if there is none.
        kept: the number of events that exceed the limits and stay: claimed by a group and not
            acknowledged, dead letters, the last event of a versioned stream.
        held_back_by: the slowest reader that has not read other events that exceed the limits;
            None if there is none.
        files: the files of the removed events, with `export=`.
    """

    stream: str | None
    removed: int
    first: int | None
    last: int | None
    kept: int
    held_back_by: LaggingReader | None
    files: tuple[str, ...] = ()


class TrimReport(NamedTuple):
    """The result of a trim.

    Attributes:
        dry_run: True if nothing was removed and the report says what would be.
        streams: an entry for each policy that was applied.
    """

    dry_run: bool
    streams: tuple[StreamTrim, ...]

    @property
    def removed(self) -> int:
        """The number of removed events of all entries."""
        return sum(stream.removed for stream in self.streams)


class SweepReport(NamedTuple):
    """The rows that a sweep removed beside the log.

    Attributes:
        expired_keys: idempotency keys that had expired.
        expired_entries: state entries that had expired.
        leases: leases that had neither a holder nor a waiter for a day.
        limits: rate limits that were not used for a day.
        batches: rows of groups that had been empty for ten minutes.
        folds: snapshots of folds that exceeded their policy.
        snapshots: snapshots of the whole state that exceeded theirs.
        complete: False if a table was so large that only a part of it was swept.
    """

    expired_keys: int
    expired_entries: int
    leases: int
    limits: int
    batches: int
    folds: int
    snapshots: int
    complete: bool


class MaintenanceReport(NamedTuple):
    """The result of one pass of maintenance.

    Attributes:
        trimmed: the trims by the policies for events.
        swept: what was removed beside the log.
        vacuumed: the tables that were vacuumed.
    """

    trimmed: TrimReport
    swept: SweepReport
    vacuumed: tuple[str, ...]


class RestoreReport(NamedTuple):
    """The result of a restore.

    Attributes:
        stream: the stream that the events were removed from; None for the whole log.
        restored: the number of events that were put back.
        present: the number of events that the log had already.
        complete: True if the file held the events that were removed last, so that readers may
            start before them again.
    """

    stream: str | None
    restored: int
    present: int
    complete: bool
