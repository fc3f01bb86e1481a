"""`memory.retention`: how much of the log is kept, and the work that keeps it so.

What to run is `pgmem.ops.retention`; how events are removed, `pgmem._async.trimming`.
"""

from __future__ import annotations

from pgmem._async.reader import AsyncFinalReader
from pgmem._async.runners import AsyncPoolRunner
from pgmem._async.trimming import AsyncTrimmer
from pgmem.errors import InvalidOption
from pgmem.models import Policy, TrimReport
from pgmem.ops import retention as ops
from pgmem.ops.values import Seconds


class AsyncRetention:
    """The rules of what is kept. Reached as `memory.retention`.

    A rule is stored in the database, and holds for whoever applies it: a memory that was opened
    with `janitor=True`, `pgmem maintain`, or a call of `maintain` or `trim`.

    >>> policy = await memory.retention.set(max_age=30 * 86_400)
    >>> policy = await memory.retention.set("metrics", max_events=100_000)
    >>> report = await memory.retention.trim()
    >>> report.removed
    0

    The rule for all streams counts the events of the whole log, and holds for each of them, also
    where its stream has a rule of its own: that one can only let go of more.
    """

    def __init__(self, runner: AsyncPoolRunner, reader: AsyncFinalReader) -> None:
        self._runner = runner
        self._trimmer = AsyncTrimmer(runner, reader)

    async def set(
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
            InvalidOption: neither limit is given, or one is not above zero.
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
        """
        rule = ops.check_rule(max_events, max_age, "max_events")
        return await self._runner.run(ops.set_policy("events", stream, rule))

    async def set_folds(
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
            InvalidOption, PermissionDenied: as for `set`.
        """
        rule = ops.check_rule(max_count, max_age, "max_count")
        return await self._runner.run(ops.set_policy("folds", name, rule))

    async def set_snapshots(
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
            InvalidOption, PermissionDenied: as for `set`.
        """
        rule = ops.check_rule(max_count, max_age, "max_count")
        return await self._runner.run(ops.set_policy("snapshots", name, rule))

    async def list(self) -> list[Policy]:
        """All rules: of each kind the one for all first, then in the order of their names."""
        return await self._runner.run(ops.list_policies())

    async def remove(self, name: str | None = None, *, kind: ops.Kind = "events") -> bool:
        """Forget a rule: from then on it removes nothing.

        Args:
            name: the stream, fold or name of snapshots that it was set for; None for all.
            kind: "events", "folds" or "snapshots".

        Returns:
            Whether there was one.

        Raises:
            OutcomeUnknown: the connection was lost under way; `list` tells.
        """
        return await self._runner.run(ops.remove_policy(kind, name))

    async def trim(
        self,
        stream: str | None = None,
        *,
        max_events: int | None = None,
        max_age: Seconds | None = None,
        force: bool = False,
        dry_run: bool = False,
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

        Raises:
            InvalidOption: no limit is given, and there is no rule for the stream.
            PermissionDenied: the role may not (`pgmem migrate grant --janitor`).
            OutcomeUnknown: the connection was lost during a commit. Trim again.
        """
        scope = ops.check_scope("events", stream)
        if max_events is None and max_age is None:
            rules = await self._rules(stream)
        else:
            rules = {scope: ops.check_rule(max_events, max_age, "max_events")}
        if not dry_run:
            await self._runner.run(ops.check_rights())
            await self._trimmer.repair()
        done = [
            await self._trimmer.trim(name, rule, force=force, dry_run=dry_run)
            for name, rule in rules.items()
        ]
        return TrimReport(dry_run, tuple(done))

    async def _rules(self, stream: str | None) -> dict[str, ops.Rule]:
        """The rules for events: all, or that of one stream."""
        found = {
            policy.name or "": ops.Rule(policy.max_count, policy.max_age)
            for policy in await self.list()
            if policy.kind == "events"
        }
        if stream is None:
            return found
        if stream not in found:
            raise InvalidOption(
                f"there is no rule for the stream {stream[:60]!r}: give max_events= or max_age=, "
                f"or set one with memory.retention.set"
            )
        return {stream: found[stream]}
