# Generated from pgmem/state/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.state`: the latest value under a key, with its version.

`TransactionState` has the verbs that work inside a transaction, `State` all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from pgmem._sync.core.execution import Executor, PoolExecutor
from pgmem._sync.events.reader import LogReader
from pgmem._sync.events.subscription import Start, Subscription
from pgmem._sync.events.verbs import Events
from pgmem._sync.leases.lease import Lease
from pgmem._sync.state.reads import StateReads
from pgmem._sync.state.snapshots import Snapshots, TransactionSnapshots
from pgmem._sync.state.update import ContendedKeys, Update
from pgmem.core.op import Op
from pgmem.core.validation import Seconds, check_count
from pgmem.errors import InvalidInput, LeaseLost
from pgmem.events.codec import Codec
from pgmem.events.event_classes import OnInvalid
from pgmem.events.filter import EventFilter
from pgmem.events.models import Event, StateChange
from pgmem.state import write_ops as ops
from pgmem.state.cache import Cache, StateCache
from pgmem.state.models import KEEP, Keep, StateEntry
from pgmem.state.read_ops import change_maker

M = TypeVar("M", bound=BaseModel)


class TransactionState(StateReads):
    """State entries: a key, a value and a version. Reached as `tx.state` in a transaction.

    Each write appends its event in the same statement: by default to the stream `state:<key>`, with
    the value as payload. `event=` replaces the event and `stream=` its stream. `record=False`
    appends none. The first unrecorded write after a recorded one still appends an event, so that
    watchers and caches can invalidate their copies.

    Attributes:
        snapshots: copies of the whole state.
    """

    def __init__(
        self,
        executor: Executor,
        codec: Codec,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(executor, codec, cache)
        self.snapshots = TransactionSnapshots(executor, codec, cache)
        self._contended = ContendedKeys()

    def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: Seconds | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> StateEntry:
        """Write an entry, whether there is one or not.

        Args:
            key: the entry's key, 1 to 512 bytes.
            value: any JSON value, or a pydantic model.
            ttl: how long the entry lives, in seconds or as a timedelta. None, the default, is for
                ever, also if the entry had an end before.
            event: append this event instead of the default one.
            stream: append the event to this stream instead of `state:<key>`.
            record: False appends no event, unless the change before appended one.

        Raises:
            InvalidInput: a key, value or option that is not allowed; nothing was sent.
            OutcomeUnknown: the connection was lost during the write.
        """
        recording = ops.recording_of(event, stream, record)
        if ttl is not None:
            ttl = ops.check_ttl(ttl)
        op = ops.put(key, value, self._codec, ttl=ttl, recording=recording)
        if self._cache is None:
            return self._executor.execute(op)
        return self._write(op, recording)

    def put_many(
        self, values: Mapping[str, Any], *, ttl: Seconds | None = None, record: bool = True
    ) -> list[StateEntry]:
        """Write several entries in one statement, all or none.

        >>> written = memory.state.put_many({"user:2": {"n": 2}, "user:1": {"n": 1}})
        >>> [(entry.key, entry.version) for entry in written]
        [('user:2', 1), ('user:1', 1)]

        Two calls that write the same keys in different orders cannot deadlock. The events are
        appended in the order of the keys' bytes.

        Args:
            values: the value of each key, 1 to 10,000 of them.
            ttl, record: as for `put`, for all of them.

        Returns:
            The new entries, in the order given.

        Raises:
            InvalidInput: a key, value or option that is not allowed; nothing was sent.
            OutcomeUnknown: the connection was lost during the write.
        """
        op = ops.put_many(values, self._codec, ttl=ops.check_ttl(ttl), record=record)
        if self._cache is None:
            return self._executor.execute(op)
        recording = ops.Recording(record=record)
        with ExitStack() as stack:
            writes = {key: stack.enter_context(self._cache.writing(key)) for key in values}
            entries = self._executor.execute(op)
            texts = ops.texts_of(op)
            for entry in entries:
                writes[entry.key].keep(ops.copy_of(entry, texts[entry.key], recording))
        return entries

    def create(
        self,
        key: str,
        value: Any,
        *,
        ttl: Seconds | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> StateEntry:
        """Write an entry if none exists.

        Args:
            key, value, ttl, event, stream, record: as for `put`.

        Raises:
            VersionConflict: there is an entry. The error holds it as `current`.
        """
        recording = ops.recording_of(event, stream, record)
        op = ops.create(key, value, self._codec, ttl=ops.check_ttl(ttl), recording=recording)
        return self._write(op, recording)

    def compare_and_set(
        self,
        key: str,
        value: Any,
        *,
        expected_version: int,
        ttl: Seconds | Keep | None = KEEP,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
        fence: Lease | None = None,
    ) -> StateEntry:
        """Write an entry if its version is the expected one.

        Args:
            key, value, event, stream, record: as for `put`.
            expected_version: the version that the value was computed from; 0 expects no entry.
            ttl: how long the entry lives from now. `KEEP`, the default, keeps its end; None removes
                it.
            fence: write only if this lease is still held, by its fencing token and the server's
                clock. No other process gets the lease before the write has committed.

        Raises:
            VersionConflict: the version is another one. The error holds the entry as `current`.
            LeaseLost: the lease is not held; nothing was changed.
        """
        recording = ops.recording_of(event, stream, record)
        op = ops.compare_and_set(
            key,
            value,
            self._codec,
            expected_version=expected_version,
            lifetime=ops.Lifetime.of(ttl),
            recording=recording,
        )
        if fence is None:
            if self._cache is None:
                return self._executor.execute(op)
            return self._write(op, recording)
        if not isinstance(fence, Lease):
            raise InvalidInput(f"fence= takes a lease, got {type(fence).__name__}")
        try:
            return self._write(ops.fenced(op, fence.held), recording)
        except LeaseLost as error:
            fence.lose(error)
            raise

    @overload
    def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        ttl: Seconds | Keep | None = KEEP,
        max_retries: int = 10,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> StateEntry: ...

    @overload
    def update(
        self,
        key: str,
        fn: Callable[[M | None], Any],
        *,
        model: type[M],
        ttl: Seconds | Keep | None = KEEP,
        max_retries: int = 10,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> StateEntry: ...

    def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        ttl: Seconds | Keep | None = KEEP,
        max_retries: int = 10,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
        model: type[BaseModel] | None = None,
    ) -> StateEntry:
        """Change an entry by a function of its value.

        It tries compare-and-set first. After a lost race it waits for the key's row lock and calls
        `fn` while it holds the lock, and so do the next updates of the key. So a writer of a
        contended key cannot starve.

        Args:
            key: the entry's key, 1 to 512 bytes.
            fn: takes the value (None if there is no entry) and returns the new one. It may be
                called several times, so it must have no side effects.
            ttl: as for `compare_and_set`.
            max_retries: how many times to try again, 0 or more.
            event, stream, record: as for `put`.
            model: give `fn` an instance of this pydantic model.

        Returns:
            The new entry.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`); nothing was written.
            VersionConflict: every try lost.
            OutcomeUnknown: the connection was lost during the write.
        """
        check_count(max_retries, "max_retries", minimum=0)
        recording = ops.recording_of(event, stream, record)
        update = Update(
            key, fn, self._codec, recording=recording, lifetime=ops.Lifetime.of(ttl), model=model
        )
        if self._cache is None:
            return self._update(update, max_retries)
        with self._cache.writing(key) as write:
            entry = self._update(update, max_retries)
            write.keep(ops.copy_of(entry, update.text, recording))
        return entry

    def _update(self, update: Update, max_retries: int) -> StateEntry:
        if isinstance(self._executor, PoolExecutor):
            return update.run(self._executor, self._contended, tries=max_retries + 1)
        return update.run_locked(self._executor)

    def increment(
        self,
        key: str,
        by: float = 1,
        *,
        ttl: Seconds | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> StateEntry:
        """Add to a number in one statement, so that two calls at once cannot lose one.

        The server adds decimals, so 0.1 and 0.2 give 0.3. Each call appends an event unless
        `record=False`. If a counter moves a thousand times a second, keep it as a fold.

        Args:
            key: the entry's key. Without an entry it starts at 0.
            by: an int or a finite float; negative to subtract.
            ttl: how long a new entry lives, in seconds or as a timedelta. An existing entry keeps
                its end.
            event, stream, record: as for `put`.

        Returns:
            The new entry, with the sum as its value.

        Raises:
            InvalidValue: the value is not a number, or the sum would leave ±(2⁶³ − 1).
            InvalidInput: a key or option that is not allowed.
            OutcomeUnknown: the connection was lost during the write.
        """
        recording = ops.recording_of(event, stream, record)
        op = ops.increment(key, by, self._codec, ttl=ops.check_ttl(ttl), recording=recording)
        return self._write(op, recording)

    def delete(
        self,
        key: str,
        *,
        expected_version: int | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> bool:
        """Delete an entry. Return True if there was one.

        Args:
            key: the entry's key.
            expected_version: delete only this version.
            event, stream, record: as for `put`.

        Raises:
            VersionConflict: the version is another one, or there is no entry.
        """
        recording = ops.recording_of(event, stream, record)
        return self._change(
            ops.delete(key, self._codec, expected_version=expected_version, recording=recording)
        )

    def touch(self, key: str, *, ttl: Seconds | None, record: bool = True) -> bool:
        """Set how long an entry lives from now. Return True if there is one.

        Its value and version stay as they are.

        Args:
            key: the entry's key.
            ttl: seconds or a timedelta; None for ever.
            record: False appends no event, unless a recorded entry without an end gets one.
        """
        return self._change(ops.touch(key, self._codec, ttl=ops.check_ttl(ttl), record=record))

    def _write(self, op: Op[StateEntry], recording: ops.Recording) -> StateEntry:
        """Execute a write of one entry and let the cache keep a copy."""
        if self._cache is None:
            return self._executor.execute(op)
        with self._cache.writing(op.params["key"]) as write:
            entry = self._executor.execute(op)
            text = op.params.get("value") or ops.number_text(entry)
            write.keep(ops.copy_of(entry, text, recording))
        return entry


class State(TransactionState):
    """State entries: a key, a value and a version. Reached as `memory.state`.

    Each write appends its event in the same statement: by default to the stream `state:<key>`, with
    the value as payload. `event=` replaces the event and `stream=` its stream. `record=False`
    appends none. The first unrecorded write after a recorded one still appends an event, so that
    watchers and caches can invalidate their copies.

    Attributes:
        snapshots: copies of the whole state.
    """

    snapshots: Snapshots

    def __init__(
        self,
        executor: Executor,
        codec: Codec,
        cache: StateCache | None,
        events: Events,
        reader: LogReader,
    ) -> None:
        super().__init__(executor, codec, cache)
        self._reader = reader
        self.snapshots = Snapshots(executor, codec, cache, events)

    def watch(
        self,
        prefix: str = "",
        *,
        after: Start = "now",
        model: type[BaseModel] | None = None,
        on_invalid: OnInvalid = "skip",
    ) -> Subscription[StateChange]:
        """Subscribe to the recorded changes of entries; see `events.subscribe`.

        >>> with memory.state.watch("account:") as changes:
        ...     entry = memory.state.put("account:1", {"balance": 5})
        ...     for change in changes.receive(timeout=5):
        ...         print(change.key, change.version, change.value)
        account:1 1 {'balance': 5}

        Each change comes once, and those of one key come in the order of their versions. The change
        holds the value, also if the write was given an event of its own. To start from the present
        state, enter the watch, then `list` the entries, then skip changes whose version is not
        above the entry's.

        Args:
            prefix: the beginning of the keys; "" for all.
            after: as for `events.subscribe`; "now" for the changes from now on.
            model: validate the values with this pydantic model.
            on_invalid: what becomes of a change whose value does not fit; as for
                `events.subscribe`.

        Returns:
            A context manager and iterator of `StateChange`.

        Raises:
            InvalidInput: a prefix or option that is not allowed.
        """
        return Subscription(
            self._reader,
            EventFilter(key_prefix=prefix),
            after,
            change_maker(model),
            on_invalid=on_invalid,
            context=self._codec.context,
        )
