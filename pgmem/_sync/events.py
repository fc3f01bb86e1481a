# Generated from pgmem/_async/events.py by tools/generate_sync.py. Do not edit.
"""`memory.events`: append to the log and read from it.

Holds the waiting: for a lost race, for the writers that keep positions from being final, for the
first event of a blocking read. What to run is `pgmem.ops.events`, when a position is final is
`pgmem.ops.frontier`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, TypeVar, overload

from pydantic import BaseModel

from pgmem._compat import sleep
from pgmem._sync.runners import MAX_RACES, BoundRunner, Runner, hidden_winner
from pgmem.errors import InvalidOption
from pgmem.models import Appended, Event, RecordedEvent
from pgmem.ops import Op
from pgmem.ops import events as ops
from pgmem.ops.frontier import Frontier, Watch, read_positions, read_writers
from pgmem.ops.values import MAX_POSITION, Seconds, check_seconds

M = TypeVar("M", bound=BaseModel)

DEFAULT_KEY_TTL: Seconds = 7 * 86_400.0
"""How long an idempotency key holds: 7 days."""

SETTLE_WAIT = 0.25
"""How long a forward read waits for writers that keep what it found from being final."""

POLL_FIRST, POLL_LAST = 0.001, 0.02


class Page(NamedTuple):
    """What a forward read found.

    Attributes:
        events: final events, in order.
        complete_to: no event of the selection up to this position is missing or still to come.
    """

    events: list[RecordedEvent]
    complete_to: int


class Events:
    """The log: an append-only sequence of events, in streams.

    Reached as `memory.events`, `tx.events` or `bound.events`.
    """

    def __init__(self, runner: Runner, codec: ops.Codec, frontier: Frontier) -> None:
        self._runner = runner
        self._codec = codec
        self._frontier = frontier

    @overload
    def append(
        self,
        stream: str,
        event: Event,
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> Appended: ...

    @overload
    def append(
        self,
        stream: str,
        event: Sequence[Event],
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> list[Appended]: ...

    def append(
        self,
        stream: str,
        event: Event | Sequence[Event],
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> Appended | list[Appended]:
        """Append one event, or several in one statement: all of them or none.

        Args:
            stream: the stream's name, 1 to 512 bytes; `state:` at its beginning is reserved.
            event: an event, or a sequence of 1 to 10,000.
            expected_version: append only if this is the stream's version: the number of events
                that were appended to it in this way. 0 for the first.
            idempotency_key: names this append. Used again with the same stream, types and
                payloads, nothing is appended and the first receipt comes back.
            ttl: how long the key holds, in seconds or as a timedelta; None for ever.

        Returns:
            A receipt for each event.

        Raises:
            InvalidInput: a name, payload or option that is not allowed; nothing was sent.
            VersionConflict: the stream's version is another one.
            IdempotencyMismatch: the key was used for something else.
            OutcomeUnknown: the connection was lost, and neither a key nor an expected version
                makes a second try safe.
        """
        plain = expected_version is None and idempotency_key is None
        if isinstance(event, Event):
            if plain:
                return self._runner.run(ops.append(stream, event, self._codec))
            events: Sequence[Event] = [event]
        elif isinstance(event, Sequence) and not isinstance(event, str | bytes):
            events = event
        else:
            raise InvalidOption(
                f"append takes an Event or a sequence of them, got {type(event).__name__}"
            )
        op = ops.append_many(
            stream,
            events,
            self._codec,
            expected_version=expected_version,
            idempotency_key=idempotency_key,
            ttl=None if ttl is None else check_seconds(ttl, "ttl"),
        )
        if isinstance(self._runner, BoundRunner) and not plain:
            receipts = self._append_in_transaction(self._runner, op)
        else:
            receipts = self._runner.run(op)
        return receipts[0] if isinstance(event, Event) else receipts

    def _append_in_transaction(self, runner: BoundRunner, op: Op[list[Appended]]) -> list[Appended]:
        """Keep a version conflict from aborting the caller's transaction."""
        for _ in range(MAX_RACES):
            try:
                with runner.savepoint():
                    return runner.run(op)
            except ops.LostRace:
                continue
        raise hidden_winner(op.action)

    def read(
        self,
        stream: str | None = None,
        *,
        type: str | None = None,
        agent_id: str | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        timeout: Seconds | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[RecordedEvent]:
        """Read events in the order of the log.

        A forward read returns only events that are final: no event of the selection will ever
        appear below the last one returned. So `after=` the last position read misses nothing,
        whatever order the writers commit in. For that it waits up to a quarter of a second for
        writers that are under way, and may return fewer events than are visible. A reverse read,
        and a read inside a transaction, return what is visible.

        Args:
            stream: only this stream.
            type: only events of this type.
            agent_id: only events of this agent.
            after: only positions above this one.
            until: only positions up to this one.
            limit: at most so many events, 1 to 100,000.
            reverse: newest first.
            timeout: wait so long for a first event, in seconds or as a timedelta; None returns at
                once. Not in a transaction, not with `reverse`.
            model: a pydantic model to validate the payloads with.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidValue: a stored payload does not fit the model.
        """
        selection = ops.Selection(
            stream, type, agent_id, after, MAX_POSITION if until is None else until
        )
        if timeout is not None and (reverse or self._runner.bound):
            raise InvalidOption(
                "timeout= waits for new events: not with reverse=True, and not in a transaction"
            )
        if reverse or self._runner.bound:
            return self._runner.run(
                ops.read(selection, self._codec, limit=limit, reverse=reverse, model=model)
            )
        wait = 0.0 if timeout is None else check_seconds(timeout, "timeout", zero=True)
        deadline = time.monotonic() + wait
        pause = POLL_FIRST
        while True:
            page = self._read_final(selection, limit=limit, model=model)
            remaining = deadline - time.monotonic()
            if page.events or remaining <= 0:
                return page.events
            sleep(min(pause, remaining))
            pause = min(pause * 1.5, POLL_LAST)

    def read_page(self, selection: ops.Selection, *, limit: int) -> Page:
        """Read final events, and tell up to where the answer is complete."""
        page = self._read_final(selection, limit=limit, model=None)
        if page.events:
            return page
        # Nothing of the selection: complete up to whatever is final.
        self._settle(None)
        return self._read_final(selection, limit=limit, model=None)

    def _read_final(
        self, selection: ops.Selection, *, limit: int, model: type[BaseModel] | None
    ) -> Page:
        op = ops.read(selection, self._codec, limit=limit, model=model)
        known = self._frontier.position
        events = self._runner.run(op)
        if events and not selection.filtered and self._follows(selection.after, events):
            # Nothing is missing between the caller's position and the last one.
            self._frontier.raise_to(events[-1].position if selection.after <= known else 0)
            return Page(events, events[-1].position)
        if events and events[-1].position > known:
            self._settle(events[-1].position)
            # What is final now may have become visible only after the first read.
            known = self._frontier.position
            events = self._runner.run(op)
        full = len(events) == limit
        events = [event for event in events if event.position <= known]
        if full and events:
            return Page(events, events[-1].position)
        return Page(events, max(selection.after, min(known, selection.until)))

    @staticmethod
    def _follows(after: int, events: Sequence[RecordedEvent]) -> bool:
        return events[-1].position - after == len(events)

    def settle(self) -> int:
        """Wait, at most a quarter of a second, until what is drawn now is final; tells how far."""
        self._settle(None)
        return self._frontier.position

    def _settle(self, target: int | None) -> None:
        """Raise the frontier to `target`, or to the head of now if that is None."""
        deadline = time.monotonic() + SETTLE_WAIT
        watch = Watch()
        pause = POLL_FIRST
        while True:
            writers = self._runner.run(read_writers())
            if target is None:
                target = writers.head
            self._frontier.raise_to(watch.observe(writers))
            if self._frontier.position >= target:
                return
            if time.monotonic() > deadline:
                break
            sleep(pause)
            pause = min(pause * 2, POLL_LAST)
        # Somebody writes for long. What follows without a gap is final all the same.
        positions = self._runner.run(read_positions(self._frontier.position))
        self._frontier.follow(positions)

    def count(
        self,
        stream: str | None = None,
        *,
        type: str | None = None,
        agent_id: str | None = None,
        after: int = 0,
        until: int | None = None,
    ) -> int:
        """Count the events that are visible now.

        Args:
            stream, type, agent_id, after, until: as for `read`.
        """
        selection = ops.Selection(
            stream, type, agent_id, after, MAX_POSITION if until is None else until
        )
        return self._runner.run(ops.count(selection))

    def version(self, stream: str) -> int:
        """The version of a versioned stream: what `expected_version` must be now; 0 if new."""
        return self._runner.run(ops.stream_version(stream))
