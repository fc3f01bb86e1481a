# Generated from pgmem/state/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.state`: the latest value under a key, with its version.

What to run is `pgmem.state.ops`; the tries of an `update` are `pgmem._sync.state.update`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from pgmem._sync.core.execution import Executor, PoolExecutor
from pgmem._sync.events.reader import LogReader
from pgmem._sync.events.subscription import Start, Subscription
from pgmem._sync.leases.lease import Lease
from pgmem._sync.state.update import Update
from pgmem.core.encoding import decode, decoder
from pgmem.core.op import Op
from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.errors import InvalidInput, LeaseLost
from pgmem.events.codec import Codec
from pgmem.events.filter import Selection
from pgmem.events.models import Event, RecordedEvent, StateChange
from pgmem.leases.ops import fenced
from pgmem.state import ops
from pgmem.state.cache import BoundCache, StateCache
from pgmem.state.increment import increment, number_text
from pgmem.state.models import StateEntry

T = TypeVar("T")


def _ttl(ttl: Seconds | None) -> float | None:
    return None if ttl is None else check_seconds(ttl, "ttl")


class State:
    """The latest state: entries with a key, a value and a version.

    Each write appends its event in the same statement: by default to the stream `state:<key>`,
    with the value as payload. `event=` replaces that event, `stream=` where it goes;
    `record=False` writes none, so that the change is in no history; but the first one after a
    recorded change has its event, so that whoever follows learns that there is something newer.

    Reached as `memory.state`, `tx.state` or `bound.state`.
    """

    def __init__(
        self,
        executor: Executor,
        codec: Codec,
        cache: StateCache | BoundCache | None = None,
        reader: LogReader | None = None,
    ) -> None:
        self._executor = executor
        self._reader = reader
        self._codec = codec
        self._cache = cache
        self._copies = cache if isinstance(cache, StateCache) else None

    def get(
        self,
        key: str,
        *,
        model: type[BaseModel] | None = None,
        refresh_on_read: Seconds | None = None,
    ) -> StateEntry | None:
        """The entry under a key, or None if there is none (or it has expired).

        With `Memory(cache=…)` it may be a copy; not in a transaction, and not with
        `refresh_on_read`.

        Args:
            key: 1 to 512 bytes.
            model: a pydantic model to validate the value with.
            refresh_on_read: let the entry live so long from now, in seconds or as a timedelta.

        Raises:
            InvalidInput: a key or option that is not allowed.
            InvalidValue: the stored value does not fit the model.
            OutcomeUnknown: with `refresh_on_read`, the connection was lost under way.
        """
        if refresh_on_read is not None:
            ttl = check_seconds(refresh_on_read, "refresh_on_read")
            return self._change(ops.refresh(key, self._codec, ttl=ttl, model=model))
        copies = self._copies
        if copies is None:
            return self._executor.execute(ops.get(key, model=model))
        copy = copies.lookup(key)
        if copy is None:
            return self._load(copies, key, model)
        value = decode(copy.text) if model is None else decoder(model, "value")(copy.text)
        return StateEntry(key, value, copy.version, copy.updated_at)

    def _load(
        self, copies: StateCache, key: str, model: type[BaseModel] | None
    ) -> StateEntry | None:
        """Read an entry from the server, and keep a copy if that may be."""
        op = ops.load(key, model=model)
        with copies.loading(key) as load:
            found = self._executor.execute(op)
            if found is None:
                return None
            entry, copy = found
            load.keep(copy)
        return entry

    def _change(self, op: Op[T]) -> T:
        """Run what changes an entry and leaves nothing to keep."""
        if self._cache is None:
            return self._executor.execute(op)
        with self._cache.writing(op.params["key"]):
            return self._executor.execute(op)

    def _write(self, op: Op[StateEntry], recording: ops.Recording) -> StateEntry:
        """Run what gives the new entry."""
        if self._cache is None:
            return self._executor.execute(op)
        with self._cache.writing(op.params["key"]) as write:
            entry = self._executor.execute(op)
            write.keep(ops.written(entry, op.params["value"], recording))
        return entry

    def get_many(
        self, keys: Sequence[str], *, model: type[BaseModel] | None = None
    ) -> dict[str, StateEntry]:
        """The entries under several keys, in one statement; missing keys are missing.

        They are all of one moment, so none is a copy of the cache.

        Args:
            keys: up to 10,000 keys.
            model: as for `get`.
        """
        return self._executor.execute(ops.get_many(keys, model=model))

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        limit: int = 100,
        model: type[BaseModel] | None = None,
    ) -> list[StateEntry]:
        """The entries whose key begins with a prefix, in the order of the keys' bytes.

        Args:
            prefix: "" for all.
            after: only keys above this one: the last key of the page before.
            limit: at most so many, 1 to 100,000.
            model: as for `get`.
        """
        return self._executor.execute(
            ops.list_entries(prefix, after=after, limit=limit, model=model)
        )

    def history(
        self,
        key: str,
        *,
        after: int = 0,
        limit: int = 100,
        model: type[BaseModel] | None = None,
    ) -> Sequence[RecordedEvent]:
        """The recorded changes of an entry, oldest first; `event.change` tells the value.

        Args:
            key: the entry's key.
            after: only versions above this one.
            limit: at most so many, 1 to 100,000.
            model: a pydantic model to validate the payloads with.
        """
        return self._executor.execute(
            ops.history(key, self._codec, after=after, limit=limit, model=model)
        )

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
        """Write an entry, whatever was there.

        Args:
            key: 1 to 512 bytes.
            value: any JSON value, or a pydantic model.
            ttl: how long the entry lives, in seconds or as a timedelta; None for ever, also if
                it had an end before.
            event: the event to append with it, instead of the default one.
            stream: where the event goes, instead of `state:<key>`.
            record: False appends no event, unless the change before appended one.

        Raises:
            InvalidInput: a key, value or option that is not allowed; nothing was sent.
            OutcomeUnknown: the connection was lost under way.
        """
        recording = ops.Recording(event, stream, record)
        op = ops.put(key, value, self._codec, ttl=_ttl(ttl), recording=recording)
        return self._write(op, recording)

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
        """Add to a number, in one statement: of two at once none is lost.

        Decimal arithmetic of the server: 0.1 and 0.2 make 0.3. Each is a change with its event
        (unless `record=False`): what moves a thousand times a second is better kept as a fold.

        Args:
            key: 1 to 512 bytes; where there is no entry it begins at 0.
            by: an int or a finite float; negative to take away.
            ttl: how long an entry lives that begins here, in seconds or as a timedelta; one that
                is there keeps its end.
            event, stream, record: as for `put`.

        Returns:
            The new entry, with the sum as its value.

        Raises:
            InvalidValue: the value is no number, or the sum would leave ±(2⁶³ − 1).
            InvalidInput: a key or option that is not allowed.
            OutcomeUnknown: the connection was lost under way.
        """
        recording = ops.Recording(event, stream, record)
        op = increment(key, by, self._codec, ttl=_ttl(ttl), recording=recording)
        if self._cache is None:
            return self._executor.execute(op)
        with self._cache.writing(key) as write:
            entry = self._executor.execute(op)
            write.keep(ops.written(entry, number_text(entry), recording))
        return entry

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
        """Write an entry where none is.

        Args:
            key, value, ttl, event, stream, record: as for `put`.

        Raises:
            VersionConflict: there is one; it is in the error's `current`.
        """
        recording = ops.Recording(event, stream, record)
        op = ops.create(key, value, self._codec, ttl=_ttl(ttl), recording=recording)
        return self._write(op, recording)

    def compare_and_set(
        self,
        key: str,
        value: Any,
        *,
        expected_version: int,
        ttl: Seconds | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
        lease: Lease | None = None,
    ) -> StateEntry:
        """Write an entry if its version is the expected one.

        Args:
            key, value, event, stream, record: as for `put`.
            expected_version: the version that the value was made from; 0 expects no entry.
            ttl: as for `put`, but None keeps the entry's end as it is.
            lease: write only if this one is still held, by its fencing token and the server's
                clock. Until the write has committed, in a transaction with all of that, nobody
                else gets the lease.

        Raises:
            VersionConflict: the version is another one; the entry is in the error's `current`.
            LeaseLost: the lease is not held any more; nothing was changed.
        """
        recording = ops.Recording(event, stream, record)
        op = ops.compare_and_set(
            key,
            value,
            self._codec,
            expected_version=expected_version,
            ttl=_ttl(ttl),
            recording=recording,
        )
        if lease is None:
            return self._write(op, recording)
        if not isinstance(lease, Lease):
            raise InvalidInput(f"lease= takes what leases.acquire gave, got {type(lease).__name__}")
        try:
            return self._write(fenced(op, lease.held), recording)
        except LeaseLost as error:
            lease.lose(error)
            raise

    def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        max_retries: int = 10,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
        model: type[BaseModel] | None = None,
    ) -> StateEntry:
        """Change an entry by a function of its value.

        Tries compare-and-set first. After a few lost races, or when one try is left, it queues for
        the key's row lock, so that nobody starves on a hot key; `fn` then runs while the lock is
        held.

        Args:
            key: 1 to 512 bytes.
            fn: takes the value (None if there is no entry) and gives the new one. It may be
                called several times: it must have no effects of its own.
            max_retries: tries after the first one, 0 or more.
            event, stream, record: as for `put`.
            model: a pydantic model: `fn` gets an instance of it.

        Returns:
            The new entry.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`); nothing was written.
            VersionConflict: lost every try.
            OutcomeUnknown: the connection was lost under way.
        """
        check_count(max_retries, "max_retries", minimum=0)
        recording = ops.Recording(event, stream, record)
        update = Update(key, fn, self._codec, recording, model)
        if self._cache is None:
            return self._update(update, max_retries)
        with self._cache.writing(key) as write:
            entry = self._update(update, max_retries)
            write.keep(ops.written(entry, update.text, recording))
        return entry

    def _update(self, update: Update, max_retries: int) -> StateEntry:
        if isinstance(self._executor, PoolExecutor):
            return update.run(self._executor, tries=max_retries + 1)
        return update.run_locked(self._executor)

    def delete(
        self,
        key: str,
        *,
        expected_version: int | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> bool:
        """Delete an entry; tells whether there was one.

        Args:
            key: 1 to 512 bytes.
            expected_version: delete only this version.
            event, stream, record: as for `put`.

        Raises:
            VersionConflict: the version is another one, or there is no entry.
        """
        recording = ops.Recording(event, stream, record)
        return self._change(
            ops.delete(key, self._codec, expected_version=expected_version, recording=recording)
        )

    def touch(self, key: str, *, ttl: Seconds | None, record: bool = True) -> bool:
        """Set how long an entry lives from now; tells whether there is one.

        Its value and version stay as they are.

        Args:
            key: 1 to 512 bytes.
            ttl: seconds or a timedelta; None for ever.
            record: False appends no event, unless the entry was recorded and had no end.
        """
        return self._change(ops.touch(key, self._codec, ttl=_ttl(ttl), record=record))

    def watch(
        self, prefix: str = "", *, after: Start = "now", model: type[BaseModel] | None = None
    ) -> Subscription[StateChange]:
        """Follow the recorded changes of entries: a subscription (see `events.subscribe`).

        >>> with memory.state.watch("account:") as changes:
        ...     entry = memory.state.put("account:1", {"balance": 5})
        ...     for change in changes.receive(timeout=5):
        ...         print(change.key, change.version, change.value)
        account:1 1 {'balance': 5}

        Each change comes once, those of one key in the order of their versions. Where an event was
        given with the write, the change holds the value all the same. To begin with what is there
        now: enter the watch first, then `list` the entries, and pass over changes whose version is
        not above the entry's.

        Args:
            prefix: only entries whose key begins so; "" for all.
            after: as for `events.subscribe`; "now" for the changes from now on.
            model: a pydantic model to validate the values with.

        Returns:
            A context manager and iterator of `StateChange`.

        Raises:
            InvalidInput: a prefix or option that is not allowed.
        """
        if self._reader is None:
            raise InvalidInput(
                "watch follows the log, and a transaction sees it as it was: not in a "
                "transaction, use the memory itself"
            )
        return Subscription(
            self._reader,
            Selection(key_prefix=prefix),
            after,
            ops.change_maker(model),
        )
