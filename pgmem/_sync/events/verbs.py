# Generated from pgmem/events/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.events`: append to the log, read from it, follow it.

What to run is in `pgmem.events.read_ops`. How far reads may go is decided by `pgmem._sync.events.reader`.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple, TypeVar, overload

from pydantic import BaseModel

from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.core.paging import PAGE, read_pages
from pgmem._sync.events.durable import DEFAULT_LEASE, DurableSubscription
from pgmem._sync.events.reader import LogReader
from pgmem._sync.events.subscription import Start, Subscription
from pgmem._sync.events.transaction_verbs import TransactionEvents
from pgmem.core.op import Row
from pgmem.core.validation import (
    MAX_POSITION,
    Seconds,
    check_count,
    check_position,
    check_seconds,
)
from pgmem.errors import InvalidInput
from pgmem.events import read_ops
from pgmem.events.codec import Codec, event_maker, parse_events
from pgmem.events.columns import POSITION
from pgmem.events.durable_ops import OnFailover, check_on_failover
from pgmem.events.event_classes import OnInvalid
from pgmem.events.filter import EventFilter, Names
from pgmem.events.models import RecordedEvent
from pgmem.events.page import ALWAYS, NEVER
from pgmem.events.trace import Trace, trace

M = TypeVar("M", bound=BaseModel)


class Page(NamedTuple):
    """The result of a forward read.

    Attributes:
        events: stable events, in order.
        complete_to: no selected event up to this position is missing or still to come.
    """

    events: list[RecordedEvent]
    complete_to: int


class Events(TransactionEvents):
    """The log: an append-only sequence of events, in streams. Reached as `memory.events`."""

    def __init__(self, executor: PoolExecutor, codec: Codec, reader: LogReader) -> None:
        super().__init__(executor, codec)
        self._reader = reader

    @overload
    def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: None = None,
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[Any]]: ...

    @overload
    def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: type[M],
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[M]]: ...

    def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: type[M] | None = None,
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[Any]] | list[RecordedEvent[M]]:
        """Read events in the order of the log.

        A forward read returns only stable events: no selected event will ever appear below the
        last one returned. So reading on with `after=` that position misses nothing, whatever
        order the writers commit in. The read waits up to a quarter of a second for open writing
        transactions, and may return fewer events than are visible. A reverse read, like a read in
        a transaction, returns what is visible.

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins with it. Not together with `stream`.
            type: only events of this type, or of these.
            agent_id: only events of this agent, or of these.
            run_id: only events of this run, or of these.
            cause: only events whose cause is the event at this position.
            after: only positions above this one.
            until: only positions up to this one.
            limit: maximum number of events, 1 to 100,000; None, the default, reads all of them,
                with a statement for each thousand.
            reverse: newest first.
            timeout: maximum wait for a first event, in seconds or as a timedelta. 0 does not
                wait, None waits for ever. Must be 0 with `reverse`.
            model: a pydantic model to validate the payloads with.
            on_invalid: what becomes of an event that does not fit its class or `model`. "skip", the
                default, leaves it out and logs it as an error; "raise" raises `InvalidEvent`.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidEvent: with `on_invalid="raise"`, a stored payload does not fit.
            HistoryRewritten: the log has lost events that this memory has read.
            PositionTrimmed: retention has removed events above `after`.
        """
        parse = parse_events(self._codec, model, on_invalid=on_invalid)
        wanted = EventFilter.of(
            stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
        )
        last = MAX_POSITION if until is None else check_position(until, "until")
        wait = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        if reverse:
            if wait != 0:
                raise InvalidInput("timeout= waits for new events: not with reverse=True")
            return parse(self._read_visible(wanted, after, last, limit=limit, reverse=True))
        if after:
            self._reader.check_position(check_position(after, "after"))
        if limit is not None and wait == 0:
            since = ALWAYS if after else NEVER
            reader = self._reader
            page = reader.read_now(wanted, after=after, until=last, limit=limit, since=since)
            return parse(page.rows)
        if limit is not None:
            check_count(limit, "limit", minimum=1, maximum=read_ops.MAX_LIMIT)
        rows: list[Row] = []
        if wait != 0:
            waiting = Subscription(self._reader, wanted, after, lambda row: row, until=last)
            try:
                most = 10_000 if limit is None else min(limit, 10_000)
                rows = waiting.receive(most, timeout=wait)
            finally:
                waiting.close()
            rows = [row for row in rows if row[POSITION] <= last]
        if not rows:
            rows = self._read_stable(wanted, after, last, limit)
        elif limit is None:
            rows += self._read_stable(wanted, rows[-1][POSITION], last, None)
        return parse(rows)

    def _read_stable(
        self, wanted: EventFilter, after: int, until: int, limit: int | None
    ) -> list[Row]:
        """Read stable events: up to a limit, or all up to the present head of the log."""
        since = ALWAYS if after else NEVER

        def read(first: int, most: int) -> list[Row]:
            page = self._reader.read_now(wanted, after=first, until=until, limit=most, since=since)
            return page.rows

        rows = read(after, PAGE if limit is None else limit)
        if limit is not None or len(rows) < PAGE:
            return rows
        # Writers may append faster than this reads.
        until = min(until, (self._reader.page_head()).head)
        return rows + read_pages(read, rows[-1][POSITION], itemgetter(POSITION), limit=None)

    def read_page(self, wanted: EventFilter, *, after: int, limit: int) -> Page:
        """Read stable events, and return up to where the answer is complete.

        Raises:
            PositionTrimmed: retention has removed events above `after`.
        """
        reader = self._reader
        page = reader.read_now(wanted, after=after, limit=limit, since=ALWAYS)
        if not page.rows:
            # No event is selected: the answer is complete up to the stable position.
            reader.wait_until_stable()
            page = reader.read_now(wanted, after=after, limit=limit, since=ALWAYS)
        return Page(parse_events(self._codec, None)(page.rows), page.complete_to)

    def trace(self, position: int, *, limit: int = 1_000) -> Trace:
        """Read what an event followed from, and everything that followed from that.

        The cause of an event is the position that `memory.context(cause=)` or a handler has set. An
        event that does not fit its class is in the tree with its stored payload.

        >>> from pgmem import Event
        >>> question = memory.events.append("chat", Event(type="question"))
        >>> with memory.context(cause=question.position):
        ...     answer = memory.events.append("chat", Event(type="answer"))
        >>> tree = memory.events.trace(answer.position)
        >>> tree.event.type, [one.event.type for one in tree.effects], tree.complete
        ('question', ['answer'], True)

        Args:
            position: the position of any event of the tree.
            limit: the most events to return, 1 to 10,000: those nearest to the first one.

        Returns:
            The tree, from the first known cause on. It iterates over its events.

        Raises:
            InvalidInput: an option is not allowed.
            NotFound: there is no event at the position.
        """
        return self._executor.execute(trace(position, self._codec, limit=limit))

    def wait_until_stable(self) -> int:
        """Wait up to a quarter of a second until all positions drawn by now are stable.

        Returns:
            The stable position.
        """
        return self._reader.wait_until_stable()

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: Start = 0,
        model: None = None,
        on_invalid: OnInvalid = "skip",
        durable: None = None,
    ) -> Subscription[RecordedEvent[Any]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: Start = 0,
        model: type[M],
        on_invalid: OnInvalid = "skip",
        durable: None = None,
    ) -> Subscription[RecordedEvent[M]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: Start = 0,
        model: None = None,
        on_invalid: OnInvalid = "skip",
        durable: str,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
        on_failover: OnFailover = "continue",
    ) -> DurableSubscription[RecordedEvent[Any]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: Start = 0,
        model: type[M],
        on_invalid: OnInvalid = "skip",
        durable: str,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
        on_failover: OnFailover = "continue",
    ) -> DurableSubscription[RecordedEvent[M]]: ...

    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: Start = 0,
        model: type[BaseModel] | None = None,
        on_invalid: OnInvalid = "skip",
        durable: str | None = None,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
        on_failover: OnFailover = "continue",
    ) -> Subscription[Any] | DurableSubscription[Any]:
        """Follow the log: first the events that are there, then each new one.

        Every selected event is handed out once, in the order of the log, whatever order its
        writers commit in; none is skipped. Lost connections, restarts of the server and lost
        notifications only delay events.

        An event counts as handled when the next one is asked for. In the body of a `for` loop over
        the subscription, `memory.context(cause=)` is the position of the event, so what is written
        there names it as its cause.

        >>> from pgmem import Event
        >>> receipt = memory.events.append("payments", Event(type="received"))
        >>> with memory.events.subscribe("payments", after=0) as events:
        ...     for event in events:
        ...         print(event.position, event.type)
        ...         break
        1 received

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins with it. Not together with `stream`.
            type: only events of this type, or of these.
            agent_id: only events of this agent, or of these.
            run_id: only events of this run, or of these.
            cause: only events whose cause is the event at this position.
            after: only positions above this one; 0 begins with the oldest event that is kept,
                "now" with the next one to be written. Above the head it waits for them.
            model: a pydantic model to validate the payloads with.
            on_invalid: what becomes of an event that does not fit its class or `model`. "skip", the
                default, logs it as an error and goes on. "raise" raises `InvalidEvent` in its
                place; the subscription goes on after it if more is asked for.
            durable: name under which the position is stored, 1 to 512 bytes. The next
                subscription of this name goes on from there, and `after` counts only the first
                time. One process at a time holds it, others stand by.
            lease: seconds without a renewal after which another process may take over, 30 by
                default, at most a day.
            auto_commit: store the position of what is handled. If False, call `commit`, alone or
                in the transaction of your effects.
            on_failover: what becomes of the stored position after a promotion of a standby.
                "continue", the default, goes on: the position, the events and effects in this
                database were replicated together. "refuse" raises `HistoryRewritten` until the
                subscription is reset, for effects elsewhere that must be compared first.

        Returns:
            A context manager and iterator; with `durable`, one that has `commit`.

        Raises:
            InvalidInput: a name or option that is not allowed.
        """
        wanted = EventFilter.of(
            stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
        )
        decode = event_maker(self._codec, model)
        if durable is None:
            return Subscription(
                self._reader,
                wanted,
                after,
                decode,
                on_invalid=on_invalid,
                context=self._codec.context,
            )
        return DurableSubscription(
            self._reader,
            wanted,
            after,
            decode,
            name=durable,
            lease=lease,
            auto_commit=auto_commit,
            on_failover=check_on_failover(on_failover),
            agent_id=self._codec.agent_id,
            on_invalid=on_invalid,
            context=self._codec.context,
        )
