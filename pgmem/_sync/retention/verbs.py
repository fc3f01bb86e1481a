# Generated from pgmem/retention/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.retention`: how much of the log is kept, and the work that keeps it so.

What to run is `pgmem.retention.ops`; how events are removed, `pgmem._sync.retention.trim`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.events.reader import LogReader
from pgmem._sync.retention.archive import Archiver, StrPath, restore
from pgmem._sync.retention.sweep import Sweeper
from pgmem._sync.retention.trim import Trimmer
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput
from pgmem.retention import ops
from pgmem.retention.models import MaintenanceReport, Policy, PolicyKind, RestoreReport, TrimReport


class Retention:
    """The rules of what is kept. Reached as `memory.retention`.

    A rule is stored in the database, and holds for whoever applies it: a memory that was opened
    with `janitor=True`, `pgmem maintain`, or a call of `maintain` or `trim`.

    >>> policy = memory.retention.set(max_age=30 * 86_400)
    >>> policy = memory.retention.set("metrics", max_events=100_000)
    >>> report = memory.retention.trim()
    >>> report.removed
    0

    The rule for all streams counts the events of the whole log, and holds for each of them, also
    where its stream has a rule of its own: that one can only let go of more.
    """

    def __init__(
        self, executor: PoolExecutor, reader: LogReader, schema: str, agent_id: str | None
    ) -> None:
        self._executor = executor
        self._schema = schema
        self._trimmer = Trimmer(executor, reader)
        self._sweeper = Sweeper(executor, agent_id)

    def set(
        self,
        stream: str | None = None,
        *,
        max_events: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set how many events are kept, in place of what was set before.

        Args:
            stream: of this stream; None for the whole log.
            max_events: the newest so many are kept.
            max_age: what was recorded longer ago goes; in seconds or as a timedelta.

        Raises:
            InvalidInput: neither limit is given, or one is not above zero.
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
        """
        return self._executor.execute(ops.set_policy("events", stream, max_events, max_age))

    def set_folds(
        self,
        name: str | None = None,
        *,
        max_count: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set how many snapshots of a fold are kept; the newest of each version always is.

        Args:
            name: of the fold of this name; None for all that have no rule of their own.
            max_count: the newest so many are kept, of each version of the fold.
            max_age: what was taken longer ago goes; in seconds or as a timedelta.

        Raises:
            InvalidInput, PermissionDenied: as for `set`.
        """
        return self._executor.execute(ops.set_policy("folds", name, max_count, max_age))

    def set_snapshots(
        self,
        name: str | None = None,
        *,
        max_count: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set how many copies of the whole state are kept; the newest of each name always is.

        Args:
            name: of the copies of this name; None for all that have no rule of their own.
            max_count: the newest so many are kept, of each name.
            max_age: what was taken longer ago goes; in seconds or as a timedelta.

        Raises:
            InvalidInput, PermissionDenied: as for `set`.
        """
        return self._executor.execute(ops.set_policy("snapshots", name, max_count, max_age))

    def list(self) -> list[Policy]:
        """All rules: of each kind the one for all first, then in the order of their names."""
        return self._executor.execute(ops.list_policies())

    def remove(self, name: str | None = None, *, kind: PolicyKind = "events") -> bool:
        """Forget a rule: from then on it removes nothing.

        Args:
            name: the stream, fold or name of snapshots that it was set for; None for all.
            kind: "events", "folds" or "snapshots".

        Returns:
            Whether there was one.

        Raises:
            OutcomeUnknown: the connection was lost under way; `list` tells.
        """
        return self._executor.execute(ops.remove_policy(kind, name))

    def trim(
        self,
        stream: str | None = None,
        *,
        max_events: int | None = None,
        max_age: Seconds | None = None,
        force: bool = False,
        dry_run: bool = False,
        export: StrPath | None = None,
    ) -> TrimReport:
        """Remove events, by these limits or, without, by the rules that were set.

        Oldest first, in small transactions, and only events that are final. What a stored consumer
        or a group has yet to read stays, unless `force`; what a group has in hand and the last
        event of a versioned stream stay in any case. A reader that is behind what was removed gets
        `PositionTrimmed`.

        Args:
            stream: of this stream; None for the whole log, or for all rules.
            max_events: keep the newest so many.
            max_age: remove what was recorded longer ago; in seconds or as a timedelta.
            force: remove also what stored readers have not read: they get `PositionTrimmed`.
            dry_run: only tell what would be removed.
            export: an existing folder: the events are first written to files there, in compressed
                JSON lines, and are removed once these are on the disk; see `restore`.

        Raises:
            InvalidInput: no limit is given, and there is no rule for the stream; or there is no
                such folder.
            ArchiveFailed: a file could not be written. What was not is not removed.
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during a commit. Trim again.
        """
        scope = ops.check_scope("events", stream)
        if max_events is None and max_age is None:
            rules = _for_events(self.list())
            if stream is not None:
                rules = {scope: self._own_rule(rules, scope)}
        else:
            rules = {scope: ops.check_rule("events", max_events, max_age)}
        archiver = None if export is None else Archiver(self._executor, self._schema, export)
        if not dry_run:
            self._begin()
        return self._trim(rules, force=force, dry_run=dry_run, archiver=archiver)

    def restore(self, file: StrPath) -> RestoreReport:
        """Put back the events of a file that `trim(export=…)` has written: all of them or none.

        They come back as they were, with their positions and times. Into the log that they come
        from, or a copy of it; or into another one that is empty and so becomes a part of that log.
        There this takes the schema's owner, for positions are given out. What is there already is
        left alone, so the same file may be restored again.

        A rule that removed them removes them again: change it first. Of several files restore the
        newest first, so that the log counts as complete from the oldest of them on.

        Args:
            file: the path.

        Raises:
            InvalidInput: it is damaged, was changed, or is no such file.
            ArchiveFailed: it cannot be read.
            Conflict: other events stand in the place of these, or the log is another one
                and not empty.
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during the commit. Restore it again.
        """
        return restore(self._executor, file)

    def maintain(self) -> MaintenanceReport:
        """Do once what a janitor does: trim by the rules, and sweep what is over.

        Swept are idempotency keys and state entries whose time is over (an entry that was recorded
        gets the event `state.expired`), leases and rate limits that nobody has used for a day,
        and snapshots that exceed a rule. A large table is swept a part at a time. A table below
        1 GiB that has many dead rows is vacuumed, where the role may, so that their room is used
        again before autovacuum comes by.

        Raises:
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during a commit. The next pass makes up for it.
        """
        self._begin()
        policies = self.list()
        trimmed = self._trim(_for_events(policies))
        swept = self._sweeper.sweep({policy.kind for policy in policies})
        return MaintenanceReport(trimmed, swept, tuple(self._sweeper.vacuum()))

    def _begin(self) -> None:
        """See that this may be done, and finish what somebody who died has left."""
        self._executor.execute(ops.check_rights())
        self._trimmer.repair()

    def _trim(
        self,
        rules: dict[str, ops.Rule],
        *,
        force: bool = False,
        dry_run: bool = False,
        archiver: Archiver | None = None,
    ) -> TrimReport:
        done = [
            self._trimmer.trim(scope, rule, force=force, dry_run=dry_run, archiver=archiver)
            for scope, rule in rules.items()
        ]
        return TrimReport(dry_run, tuple(done))

    def _own_rule(self, rules: dict[str, ops.Rule], stream: str) -> ops.Rule:
        if stream not in rules:
            raise InvalidInput(
                f"there is no rule for the stream {stream[:60]!r}: give max_events= or max_age=, "
                f"or set one with memory.retention.set"
            )
        return rules[stream]


def _for_events(policies: Sequence[Policy]) -> dict[str, ops.Rule]:
    """The rules for events by their streams: '' is the whole log."""
    return {
        policy.name or "": ops.Rule(policy.max_count, policy.max_age)
        for policy in policies
        if policy.kind == "events"
    }
