# Generated from pgmem/redis/layer.py by tools/generate_sync.py. Do not edit.
"""`SharedMemoryLayer`: the published `SharedMemoryLayer`, on PostgreSQL.

The six methods of a design that many teams have running on Redis, with their arguments and answers,
so that code which calls them moves by changing its import and the constructor. Made of the public
verbs of the memory, and of nothing else; how ids, replies, keys and fields look is
`pgmem.redis.layer_ops`. What the published code got wrong is right here: docs/coming-from-redis.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pgmem._sync.memory import Memory
from pgmem.core.concurrency import Lock, passthrough
from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.errors import CallbackFailed, InvalidInput, NotOpen, VersionConflict
from pgmem.events.models import Event, RecordedEvent
from pgmem.redis import layer_ops as ops
from pgmem.redis.errors import ConcurrentModificationError

MOST_EVENTS = 10_000
"""So many events at most are read at once, also where more were asked for."""


class Call:
    """A function of the caller's. What it gives and raises reaches him as it is, as it did in the
    published code: the memory would store the one and wrap the other.

    Attributes:
        result: what it gave the last time.
        error: what it raised the last time, or None.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn
        self.result: Any = None
        self.error: Exception | None = None

    def call(self, argument: Any) -> Any:
        """Call it."""
        self.error = None
        try:
            self.result = passthrough(self._fn(argument))
        except Exception as error:
            self.error = error
            raise
        return self.result


class SharedMemoryLayer:
    """The shared memory of the published design: six methods over a stream, a hash and a set.

    >>> from pgmem.redis import SharedMemoryLayer
    >>> layer = SharedMemoryLayer(url)
    >>> layer.write_event("validator", "payment.validated", {"amount": 5})
    >>> ((stream, events),) = layer.read_events(last_id="0")
    >>> [fields[b"payload"] for _, fields in events]
    [b'{"amount": 5}']
    >>> layer.close()

    The work of `process_event` is a method of a subclass, `_do_actual_work(event)`.

    Args:
        memory: an open memory, which stays the caller's; or the URL of a database (None: from the
            environment), which is connected to when first needed, until `close`.
        decode_responses: give texts, as a Redis client made with `decode_responses=True` does,
            instead of bytes.
        lease: how long the work of one `process_event` may take before another caller may do it,
            in seconds or as a timedelta. Make it longer than the work.
        processed_ttl: how long `process_event` knows that an event is done, in seconds or as a
            timedelta; None for ever. Make it longer than events are kept.

    Attributes:
        memory: the memory, for all that the six methods do not do.
        stream_key: the stream of the events.
        state_key: what the keys of the latest state begin with.

    Raises:
        InvalidInput: an argument that is not allowed.
    """

    def __init__(
        self,
        memory: Memory | str | None = None,
        *,
        decode_responses: bool = False,
        lease: Seconds = 60.0,
        processed_ttl: Seconds | None = None,
    ) -> None:
        if not isinstance(memory, Memory | str | None):
            wanted = Memory.__name__
            raise InvalidInput(
                f"{type(self).__name__} takes the URL of a PostgreSQL database, or an open "
                f"{wanted}, got {type(memory).__name__}"
            )
        self._lease = check_seconds(lease, "lease")
        self._ttl = None if processed_ttl is None else check_seconds(processed_ttl, "processed_ttl")
        self._face = ops.Face(decodes=decode_responses)
        self._owned = not isinstance(memory, Memory)
        self._to_open = self._owned
        self._opening = Lock()
        self.memory = memory if isinstance(memory, Memory) else Memory(memory)
        self.stream_key = "agent:events"
        self.state_key = "agent:state"

    def _opened(self) -> Memory:
        """The memory, connected: the published class needs no `with`."""
        if self._to_open:
            with self._opening:
                if self._to_open:
                    self.memory.open()
                    self._to_open = False
        return self.memory

    def close(self) -> None:
        """Close the memory, if it was made from a URL; the context manager does it."""
        self._to_open = False
        if self._owned:
            self.memory.close()

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write_event(self, agent_id: str, event_type: str, payload: Any) -> None:
        """Write an event and the latest state of its agent and type: both or neither.

        Args:
            agent_id: who says so.
            event_type: what happened.
            payload: what `json.dumps` takes; it is stored as what comes back from that.

        Raises:
            InvalidInput: a name or payload that is not allowed; nothing was sent.
            OutcomeUnknown: the connection was lost under way; it is not sent again.
        """
        key = ops.latest_keys(self.state_key, agent_id, event_type)[0]
        value = ops.payload_value(payload)
        event = Event(type=event_type, payload=value, agent_id=agent_id)
        memory = self._opened()
        memory.state.put(key, value, event=event, stream=self.stream_key)

    def read_events(self, last_id: ops.Text | int = "0", count: int = 100) -> ops.Reply:
        """The events behind an id, oldest first; waits until there is one.

        Args:
            last_id: "0" for the oldest event that is kept, "$" for those from now on, or an id
                that this method gave: what comes behind it.
            count: at most so many.

        Returns:
            A list of one pair, the stream and its events: each a pair of the id and the fields
            `agent_id`, `event_type`, `payload` (JSON text) and `timestamp` (UTC, the server's).
            If there are fewer than `count` (and than 10,000), there were no more.

        Raises:
            InvalidInput: `last_id` is an id of a Redis stream.
            PositionTrimmed: retention has removed events behind `last_id` that were not read.
            HistoryRewritten: the log is another one after a failover or a restore.
            NotOpen: the memory was closed while this waited.
        """
        after = ops.position_of(last_id)
        most = min(check_count(count, "count", minimum=1), MOST_EVENTS)
        memory = self._opened()
        events: list[RecordedEvent] = []
        if after != "now":
            # Fewer than were asked for must mean that these are all: who reads may stop there, for
            # the next call would wait. A subscription gives what it has at hand.
            events = memory.events.read(self.stream_key, after=after, limit=most)
        if not events:
            with memory.events.subscribe(self.stream_key, after=after) as subscription:
                events = subscription.receive(most)
        if not events:
            raise NotOpen("read_events: this memory was closed while it waited for an event")
        return self._face.reply(self.stream_key, events)

    def get_latest_state(self, agent_id: str, event_type: str) -> Any:
        """The payload that was written last for an agent and type; {} if there is none."""
        keys = ops.latest_keys(self.state_key, agent_id, event_type)
        memory = self._opened()
        if len(keys) == 1:
            entry = memory.state.get(keys[0])
        else:
            found = memory.state.get_many(keys)
            entry = next((found[key] for key in keys if key in found), None)
        return {} if entry is None else entry.value

    def take_snapshot(self) -> None:
        """Copy the whole state as it is at one position of the log.

        `memory.snapshots` lists the copies, under the name of `state_key`, and restores them.
        """
        memory = self._opened()
        memory.snapshots.take(self.state_key)

    def process_event(self, event: Mapping[str, Any]) -> Any:
        """Do the work for an event unless it has been done.

        Who comes while another one is at work waits for the end of it. If that one dies, its
        lease runs out, and who waits does the work.

        Args:
            event: has an `id`, which names the work.

        Returns:
            What `_do_actual_work` gave; `{"status": "skipped", "reason": "already_processed"}` if
            the work had been done.

        Raises:
            Exception: what `_do_actual_work` raised; the next caller does the work.
            LeaseHeld: others were at work for longer than a lease.
            LeaseLost: the work took longer than its lease, and another caller took over.
        """
        key = ops.processed_key(event)
        memory = self._opened()
        work = Call(self._do_actual_work)

        def do() -> None:
            # Its result is not given on to be stored: it need not be JSON, and nobody asks for it.
            work.call(event)

        try:
            outcome = memory.dedupe.run_once(
                key, do, ttl=self._ttl, lease=self._lease, timeout=self._lease
            )
        except CallbackFailed as failed:
            error = work.error or failed
        else:
            if outcome.status == "skipped":
                return {"status": "skipped", "reason": "already_processed"}
            return work.result
        raise error

    def _do_actual_work(self, event: Mapping[str, Any]) -> Any:
        """What to do for an event: a subclass says it."""
        raise InvalidInput(
            f"process_event needs the work: make a subclass of {type(self).__name__} with a method "
            f"_do_actual_work(self, event)"
        )

    def update_with_version(
        self,
        resource_id: str,
        update_fn: Callable[[ops.Fields], ops.Fields | Awaitable[ops.Fields]],
        max_retries: int = 3,
    ) -> ops.Fields:
        """Change the fields of a resource by a function of them, and count its version up.

        Tries without a lock first; the last of several tries queues for the resource's row.

        Args:
            resource_id: names the resource.
            update_fn: takes the fields (with the `version`, if there is one) and gives those to
                write; others stay as they are. It is called again after a lost race, so it must
                have no effects of its own; nor may it change the same resource.
            max_retries: so many tries, 1 or more.

        Returns:
            What `update_fn` gave, with the new `version`.

        Raises:
            ConcurrentModificationError: lost every try.
            Exception: what `update_fn` raised; nothing was written.
            InvalidValue: a field that is no text or number; nothing was written.
            OutcomeUnknown: the connection was lost under way.
        """
        key = ops.resource_key(resource_id)
        check_count(max_retries, "max_retries", minimum=1)
        memory = self._opened()
        update = Call(update_fn)

        def change(value: Any) -> dict[str, str]:
            version = ops.version_of(resource_id, value) + 1
            changed = update.call(self._face.fields(resource_id, value))
            fields = ops.merged(resource_id, value, changed, version)
            changed[ops.VERSION] = version
            return fields

        try:
            memory.state.update(key, change, max_retries=max_retries - 1)
        except VersionConflict as lost:
            raise ConcurrentModificationError(
                f"update_with_version of {resource_id!r}: lost {max_retries} of {max_retries} "
                f"tries to others; nothing was written. Try again, or give it more max_retries",
                expected=lost.expected,
                actual=lost.actual,
                current=lost.current,
            ) from lost
        except CallbackFailed as failed:
            error = update.error or failed
        else:
            written: ops.Fields = update.result
            return written
        raise error
