# Generated from pgmem/groups/worker.py by tools/generate_sync.py. Do not edit.
"""The loop behind `group.run`: one member for each event that is handled at the same time.

::

    running ──── group.stop(), with handle_signals=True SIGTERM or SIGINT ────► stopping ──► ended

    a member         claim ──► handle ──► acknowledge ──► claim …     `pgmem._sync.groups.member`
    the supervisor   renew leases, acknowledge, give back what waits  `pgmem._sync.groups.supervisor`

If the group is deleted, trimmed, or its log is another one, every member stops and `run` raises the
error.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pgmem._sync.groups.member import Member
from pgmem._sync.groups.supervisor import Supervisor
from pgmem.core.concurrency import Caller, Lock, Wakeup, Worker
from pgmem.core.signals import StopSignals
from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.errors import InvalidInput
from pgmem.events.durable_ops import check_lease
from pgmem.groups.claim_ops import MAX_LIMIT
from pgmem.groups.isolation import PROCESS
from pgmem.groups.models import RunResult
from pgmem.groups.run_ops import numbered_member

if TYPE_CHECKING:
    from pgmem._sync.groups.claims import GroupContext
    from pgmem._sync.groups.delivery import Delivery
    from pgmem._sync.groups.group import Group

    Batch = list[Delivery[Any]]

Once = Literal["transaction", "claim"]
Handler = Callable[..., Any]

MAX_CONCURRENCY = 1_000


def member_name() -> str:
    """Return the default name of a member: host name and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run, checked.

    Attributes:
        handler: called with each delivery; with once="transaction" also with the transaction.
        member: the members' name. A number is added if there are several.
        concurrency: the number of members.
        limit: the most events that a member claims together.
        lease: seconds.
        max_runtime: seconds that a handler may take.
        once: how effects are kept from happening twice.
    """

    handler: Handler
    member: str
    concurrency: int
    limit: int
    lease: float
    max_runtime: float
    once: Once | None

    @classmethod
    def of(
        cls,
        handler: Handler,
        member: str | None,
        concurrency: int,
        limit: int,
        *,
        lease: Seconds,
        max_runtime: Seconds,
        once: Once | None,
    ) -> RunOptions:
        """Check the options of a run.

        Raises:
            InvalidInput: an option is not allowed.
        """
        if once not in (None, "transaction", "claim"):
            raise InvalidInput(f"once is 'transaction', 'claim' or None, got {once!r}")
        if not callable(handler):
            raise InvalidInput(f"handler is a function, got {type(handler).__name__}")
        check_count(concurrency, "concurrency", minimum=1, maximum=MAX_CONCURRENCY)
        return cls(
            handler,
            member or member_name(),
            concurrency,
            check_count(limit, "limit", minimum=1, maximum=MAX_LIMIT),
            check_lease(lease),
            check_seconds(max_runtime, "max_runtime"),
            once,
        )

    def check_pool(self, size: int) -> None:
        """Refuse a pool in which handlers would wait for each other's connections.

        Raises:
            InvalidInput: it is too small.
        """
        needed = self.concurrency + 1 if self.once == "transaction" else 2
        if size < needed:
            why = (
                f"each of {self.concurrency} handlers is in a transaction of its own, and one more "
                f"connection claims events, renews leases and serves calls inside a handler"
                if self.once == "transaction"
                else "one for a handler, and one to claim events and renew leases meanwhile"
            )
            raise InvalidInput(
                f"run with concurrency={self.concurrency} needs a pool of at least {needed} "
                f"connections, and this memory has at most {size}: {why}. Open the memory with "
                f"pool={needed}, or lower the concurrency"
            )


class GroupRun:
    """One `run` of a group in this process.

    Args:
        group: the group.
        context: makes transactions and runs handlers once.
        read: claims a batch.
        options: the options of the run.
        wake: ends the waits of members of this group.

    Attributes:
        stopping: no more events are begun.
    """

    def __init__(
        self,
        group: Group[Any],
        context: GroupContext,
        read: Callable[..., Batch],
        options: RunOptions,
        *,
        wake: Callable[[], None],
    ) -> None:
        options.check_pool(context.reader.executor.database.pool_size)
        self.group = group
        self.context = context
        self.read = read
        self.options = options
        self.caller = Caller(options.concurrency)
        self.stopping = False
        self._wake = wake
        self._lock = Lock()
        self._ended = Wakeup()
        self._failure: BaseException | None = None
        self._handled = self._failed = self._lost = 0
        self.members = [Member(self, name) for name in self._names()]
        self.supervisor = Supervisor(self)

    def _names(self) -> list[str]:
        name, count = self.options.member, self.options.concurrency
        if count == 1:
            return [name]
        return [numbered_member(name, number) for number in range(1, count + 1)]

    def stop(self) -> None:
        """End after the running handlers. May be called from any thread, task or signal handler."""
        self.stopping = True
        self._wake()
        for member in self.members:
            member.wakeup.set()

    def run(self, *, handle_signals: bool) -> RunResult:
        """Run until told to stop."""
        PROCESS.add_members(len(self.members))
        try:
            with StopSignals(self.stop, handle=handle_signals):
                supervisor = Worker(self._keep, f"pgmem-supervisor-{self.options.member}")
                try:
                    self._run_members()
                finally:
                    self.supervisor.end()
                    supervisor.join(5.0)
        finally:
            PROCESS.add_members(-len(self.members))
            self.caller.close()
        if self._failure is not None:
            raise self._failure
        return RunResult(self._handled, self._failed, self._lost)

    def _run_members(self) -> None:
        if len(self.members) == 1:
            # In the caller's thread: a handler may use objects that are bound to it.
            self._guard(self.members[0].run)
        else:
            self._together()

    def _together(self) -> None:
        def worker(number: int, member: Member) -> Worker:
            return Worker(lambda: self._guard(member.run), f"pgmem-member-{number}")

        workers = [worker(number, member) for number, member in enumerate(self.members, 1)]
        try:
            while any(one.alive for one in workers):
                self._ended.wait(1.0)
        except BaseException:
            self.stop()
            for one in workers:
                one.join(0.0)
            raise

    def _keep(self) -> None:
        self._guard(self.supervisor.run)

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a member or the supervisor. Its failure stops the others."""
        try:
            work()
        except Exception as error:
            with self._lock:
                self._failure = self._failure or error
            self.stop()
        finally:
            self._ended.set()

    def count(self, handled: int = 0, failed: int = 0, lost: int = 0) -> None:
        """Add to the result."""
        with self._lock:
            self._handled += handled
            self._failed += failed
            self._lost += lost
