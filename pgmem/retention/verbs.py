"""The verbs of `memory.retention`: policies, trims, archives and maintenance."""

from __future__ import annotations

from collections.abc import Sequence

from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput
from pgmem.events.reader import AsyncLogReader
from pgmem.retention import ops
from pgmem.retention.archive import AsyncArchiver, StrPath, restore
from pgmem.retention.models import MaintenanceReport, Policy, PolicyKind, RestoreReport, TrimReport
from pgmem.retention.sweep import AsyncSweeper
from pgmem.retention.sweep_ops import read_due
from pgmem.retention.trim import AsyncTrimmer


class AsyncRetention:
    """Policies of retention and their application. Reached as `memory.retention`.

    Policies are stored in the database. They are applied by a memory that was opened with
    `janitor=True`, by `pgmem maintain`, and by calls of `maintain` and `trim`.

    >>> policy = await memory.retention.set(max_age=30 * 86_400)
    >>> policy = await memory.retention.set("metrics", max_events=100_000)
    >>> report = await memory.retention.trim()
    >>> report.removed
    0

    The policy for all streams counts the events of the whole log. It also applies to streams with
    a policy of their own, which can only remove more.
    """

    def __init__(
        self, executor: AsyncPoolExecutor, reader: AsyncLogReader, schema: str, agent_id: str | None
    ) -> None:
        self._executor = executor
        self._schema = schema
        self._trimmer = AsyncTrimmer(executor, reader)
        self._sweeper = AsyncSweeper(executor, agent_id)
        self._allowed = False

    async def set(
        self,
        stream: str | None = None,
        *,
        max_events: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set the policy for events of a stream or the whole log. It replaces an earlier one.

        Args:
            stream: the stream; None for the whole log.
            max_events: how many of the newest events are kept.
            max_age: the age above which an event is removed, in seconds or as a timedelta.

        Raises:
            InvalidInput: neither limit is given, or one is not above zero.
            PermissionDenied: the role lacks the right (`pgmem migrate grant --janitor`).
        """
        return await self._executor.execute(ops.set_policy("events", stream, max_events, max_age))

    async def set_folds(
        self,
        name: str | None = None,
        *,
        max_count: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set the policy for snapshots of folds. The newest of each fold version is always kept.

        Args:
            name: the fold; None for all folds without a policy of their own.
            max_count: how many of the newest snapshots are kept, for each version of the fold.
            max_age: the age above which a snapshot is removed, in seconds or as a timedelta.

        Raises:
            InvalidInput, PermissionDenied: as for `set`.
        """
        return await self._executor.execute(ops.set_policy("folds", name, max_count, max_age))

    async def set_snapshots(
        self,
        name: str | None = None,
        *,
        max_count: int | None = None,
        max_age: Seconds | None = None,
    ) -> Policy:
        """Set the policy for snapshots of the state. The newest of each name is always kept.

        Args:
            name: the name of the snapshots; None for all names without a policy of their own.
            max_count: how many of the newest snapshots are kept, for each name.
            max_age: the age above which a snapshot is removed, in seconds or as a timedelta.

        Raises:
            InvalidInput, PermissionDenied: as for `set`.
        """
        return await self._executor.execute(ops.set_policy("snapshots", name, max_count, max_age))

    async def list(self) -> list[Policy]:
        """List the policies, ordered by kind and name. The one for all comes first of its kind."""
        return await self._executor.execute(ops.list_policies())

    async def remove(self, name: str | None = None, *, kind: PolicyKind = "events") -> bool:
        """Remove a policy.

        Args:
            name: the stream, fold or name of snapshots that it was set for; None for all.
            kind: "events", "folds" or "snapshots".

        Returns:
            True if the policy existed.

        Raises:
            OutcomeUnknown: the connection was lost. `list` tells.
        """
        return await self._executor.execute(ops.remove_policy(kind, name))

    async def trim(
        self,
        stream: str | None = None,
        *,
        max_events: int | None = None,
        max_age: Seconds | None = None,
        force: bool = False,
        dry_run: bool = False,
        export: StrPath | None = None,
    ) -> TrimReport:
        """Remove events that exceed the given limits, or else the policies.

        Events are removed oldest first, in small transactions, and only up to the stable position.
        Events that a durable subscription or a group has not read stay, unless `force` is True.
        Events that a group has claimed, and the last event of a versioned stream, always stay. A
        reader behind removed events gets `PositionTrimmed`.

        Args:
            stream: the stream; None for the whole log, or for all policies.
            max_events: how many of the newest events to keep.
            max_age: the age above which an event is removed, in seconds or as a timedelta.
            force: also remove events that stored readers have not read: those get
                `PositionTrimmed`.
            dry_run: remove nothing, and report what would be removed.
            export: an existing folder. The events are first written to files there, as compressed
                JSON lines, and removed after the files are on disk. See `restore`.

        Raises:
            InvalidInput: no limit is given and the stream has no policy, or the folder is missing.
            ArchiveFailed: a file could not be written. Its events were not removed.
            PermissionDenied: the role lacks the right (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during a commit. Trim again.
        """
        scope = ops.check_scope("events", stream)
        if max_events is None and max_age is None:
            limits = _limits_of_events(await self.list())
            if stream is not None:
                if scope not in limits:
                    raise InvalidInput(
                        f"the stream {scope[:60]!r} has no policy: give max_events= or max_age=, "
                        f"or set one with memory.retention.set"
                    )
                limits = {scope: limits[scope]}
        else:
            limits = {scope: ops.check_limits("events", max_events, max_age)}
        archiver = None if export is None else AsyncArchiver(self._executor, self._schema, export)
        if not dry_run:
            await self._prepare()
        return await self._trim(limits, force=force, dry_run=dry_run, archiver=archiver)

    async def restore(self, file: StrPath) -> RestoreReport:
        """Put back the events of a file that `trim(export=…)` has written, all or none.

        The events come back unchanged, with their positions and times. The log must be the one
        that they come from or a copy of it. An empty log becomes a part of that log. It takes the
        schema's owner, because events get the positions and times of the file. Events that the log
        has already are left alone, so a repeated restore does no harm.

        A policy that removed the events removes them again: change it first. Of several files
        restore the newest first, so that readers may start from the oldest of them.

        Args:
            file: the path.

        Raises:
            InvalidInput: the file is damaged, was changed, or is no archive.
            ArchiveFailed: the file cannot be read.
            Conflict: other events have these positions, or the log is another one and not empty.
            PermissionDenied: the role is not the schema's owner.
            Unavailable: other sessions hold locks on the events. The error names them.
            OutcomeUnknown: the connection was lost during the commit. Restore it again.
        """
        return await restore(self._executor, file)

    async def maintain(self) -> MaintenanceReport:
        """Do one pass of maintenance: trim by the policies, sweep, and vacuum.

        A sweep removes expired idempotency keys and state entries (a recorded entry gets the event
        `state.expired`), leases and rate limits that were not used for a day, and snapshots that
        exceed a policy. A large table is swept in parts. A table below 1 GiB with many dead rows is
        vacuumed if the role has the right, so that their space is used again before autovacuum
        runs.

        Raises:
            PermissionDenied: the role lacks the right (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during a commit. The next pass makes up for it.
        """
        if not self._allowed:
            await self._executor.execute(ops.check_rights())
            self._allowed = True
        # The janitor of an idle memory sends this statement and no other.
        due = await self._executor.execute(read_due())
        if due.times:
            await self._executor.execute(ops.set_trim_times())
        policies = await self.list() if due.policies else []
        trimmed = await self._trim(_limits_of_events(policies))
        swept = await self._sweeper.sweep(due, {policy.kind for policy in policies})
        # What was removed leaves dead rows.
        removed = trimmed.removed or any(swept[:-1])
        vacuumed = await self._sweeper.vacuum() if due.vacuum or removed else []
        return MaintenanceReport(trimmed, swept, tuple(vacuumed))

    async def _prepare(self) -> None:
        """Check the role's rights, and finish a trim whose process died."""
        await self._executor.execute(ops.check_rights())
        await self._executor.execute(ops.set_trim_times())

    async def _trim(
        self,
        limits: dict[str, ops.Limits],
        *,
        force: bool = False,
        dry_run: bool = False,
        archiver: AsyncArchiver | None = None,
    ) -> TrimReport:
        done = [
            await self._trimmer.trim(stream, limit, force=force, dry_run=dry_run, archiver=archiver)
            for stream, limit in limits.items()
        ]
        return TrimReport(dry_run, tuple(done))


def _limits_of_events(policies: Sequence[Policy]) -> dict[str, ops.Limits]:
    """Return the limits of the policies for events by stream; '' is the whole log."""
    return {
        policy.name or "": ops.Limits(policy.max_count, policy.max_age)
        for policy in policies
        if policy.kind == "events"
    }
