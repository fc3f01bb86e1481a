"""The published `SharedMemoryLayer`, on PostgreSQL.

It has the six methods of a design that many teams run on Redis, with the same arguments and
results. So code that calls them moves by changing its import and the constructor. It uses public
verbs of the memory only. `pgmem.redis.layer_ops` has the formats of ids, replies, keys and fields.
docs/howto/published-layer.md lists the faults of the published code that do not exist here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pgmem.core.concurrency import AsyncLock, maybe_await
from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.errors import CallbackFailed, InvalidInput, NotOpen, VersionConflict
from pgmem.events.models import Event, RecordedEvent
from pgmem.memory import AsyncMemory
from pgmem.redis import layer_ops as ops
from pgmem.redis.errors import ConcurrentModificationError

MOST_EVENTS = 10_000
"""Maximum number of events in one reply, whatever `count` is."""


class AsyncCall:
    """A function of the caller, whose result and error are returned unchanged.

    The memory would store the result and wrap the error. The published code did neither.

    Attributes:
        result: the last result.
        error: the last error, or None.
    """

    def __init__(self, fn: Callable[[Any], Any | Awaitable[Any]]) -> None:
        self._fn = fn
        self.result: Any = None
        self.error: Exception | None = None

    async def call(self, argument: Any) -> Any:
        """Call the function."""
        self.error = None
        try:
            self.result = await maybe_await(self._fn(argument))
        except Exception as error:
            self.error = error
            raise
        return self.result


class AsyncSharedMemoryLayer:
    """The shared memory of the published design, with six methods over a stream, a hash and a set.

    >>> from pgmem.redis import AsyncSharedMemoryLayer
    >>> layer = AsyncSharedMemoryLayer(url)
    >>> await layer.write_event("validator", "payment.validated", {"amount": 5})
    >>> ((stream, events),) = await layer.read_events(last_id="0")
    >>> [fields[b"payload"] for _, fields in events]
    [b'{"amount": 5}']
    >>> await layer.close()

    The work of `process_event` is a method of a subclass, `_do_actual_work(event)`.

    Args:
        memory: an open memory, which the caller closes; or the URL of a database. With None the
            URL comes from the environment. A URL is connected to at first use, and `close` closes
            the connection.
        decode_responses: return texts instead of bytes, as a Redis client with
            `decode_responses=True` does.
        lease: after how many seconds (or a timedelta) another caller may do the work of a
            `process_event` that has not ended. Must be longer than the work.
        processed_ttl: how long `process_event` remembers that an event is done, in seconds or as a
            timedelta; None for ever. Must be longer than events are kept.

    Attributes:
        memory: the memory, for everything else.
        stream_key: the stream of the events.
        state_key: the prefix of the keys of the latest state.

    Raises:
        InvalidInput: an argument that is not allowed.
    """

    def __init__(
        self,
        memory: AsyncMemory | str | None = None,
        *,
        decode_responses: bool = False,
        lease: Seconds = 60.0,
        processed_ttl: Seconds | None = None,
    ) -> None:
        if not isinstance(memory, AsyncMemory | str | None):
            wanted = AsyncMemory.__name__
            raise InvalidInput(
                f"{type(self).__name__} takes the URL of a PostgreSQL database, or an open "
                f"{wanted}, got {type(memory).__name__}"
            )
        self._lease = check_seconds(lease, "lease")
        self._ttl = None if processed_ttl is None else check_seconds(processed_ttl, "processed_ttl")
        self._format = ops.ReplyFormat(decodes=decode_responses)
        self._owned = not isinstance(memory, AsyncMemory)
        self._to_open = self._owned
        self._opening = AsyncLock()
        self.memory = memory if isinstance(memory, AsyncMemory) else AsyncMemory(memory)
        self.stream_key = "agent:events"
        self.state_key = "agent:state"

    async def _opened(self) -> AsyncMemory:
        """Connect at first use, because the published class needs no `with`."""
        if self._to_open:
            async with self._opening:
                if self._to_open:
                    await self.memory.open()
                    self._to_open = False
        return self.memory

    async def close(self) -> None:
        """Close the memory if it was made from a URL. The context manager calls this."""
        self._to_open = False
        if self._owned:
            await self.memory.close()

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def write_event(self, agent_id: str, event_type: str, payload: Any) -> None:
        """Write an event and the latest state of its agent and type, both or neither.

        Args:
            agent_id: the agent that writes.
            event_type: the type of the event.
            payload: a value that `json.dumps` accepts. It is stored as JSON returns it.

        Raises:
            InvalidInput: a name or payload that is not allowed; nothing was sent.
            OutcomeUnknown: the connection was lost during the write; it is not sent again.
        """
        key = ops.latest_keys(self.state_key, agent_id, event_type)[0]
        value = ops.payload_value(payload)
        event = Event(type=event_type, payload=value, agent_id=agent_id)
        memory = await self._opened()
        await memory.state.put(key, value, event=event, stream=self.stream_key)

    async def read_events(self, last_id: ops.Text | int = "0", count: int = 100) -> ops.Reply:
        """Return the events after an id, oldest first. Wait until there is one.

        Args:
            last_id: "0" for the oldest retained event, "$" for events from now on, or an id that
                this method returned.
            count: maximum number of events. More than 10,000 counts as 10,000.

        Returns:
            A list of one pair, the stream and its events. An event is a pair of its id and the
            fields `agent_id`, `event_type`, `payload` (JSON text) and `timestamp` (UTC, of the
            server's clock). Fewer events than `count` are all that there are.

        Raises:
            InvalidInput: `last_id` is an id of a Redis stream, or beyond the end of the log.
            PositionTrimmed: retention has removed events behind `last_id` that were not read.
            HistoryRewritten: the log is another one after a failover or a restore.
            NotOpen: the memory was closed while this waited.
        """
        after = ops.position_of(last_id)
        most = min(check_count(count, "count", minimum=1), MOST_EVENTS)
        memory = await self._opened()
        events: list[RecordedEvent] = []
        if after != "now":
            # Fewer than `count` must mean that there are no more. The caller may stop there: the
            # next call would wait. A subscription returns what it has buffered.
            events = await memory.events.read(self.stream_key, after=after, limit=most)
        if not events:
            if after != "now":
                await self._check_in_log(after)
            async with memory.events.subscribe(self.stream_key, after=after) as subscription:
                events = await subscription.receive(most)
        if not events:
            raise NotOpen("read_events: this memory was closed while it waited for an event")
        return self._format.reply(self.stream_key, events)

    async def _check_in_log(self, after: int) -> None:
        """Refuse a position that the log has not reached, because a subscription would wait for it.

        If retention has removed the newest events, only the stable position is that high.
        """
        events = self.memory.events
        if after > await events.head() and after > await events.wait_until_stable():
            raise InvalidInput(
                f"read_events got an id of position {after}, which is no position of this log. "
                f"The id comes from another log, or from before a restore"
            )

    async def get_latest_state(self, agent_id: str, event_type: str) -> Any:
        """Return the payload that was written last for an agent and type; {} if there is none."""
        keys = ops.latest_keys(self.state_key, agent_id, event_type)
        memory = await self._opened()
        if len(keys) == 1:
            entry = await memory.state.get(keys[0])
        else:
            found = await memory.state.get_many(keys)
            entry = next((found[key] for key in keys if key in found), None)
        return {} if entry is None else entry.value

    async def take_snapshot(self) -> None:
        """Copy the whole state as it is at one position of the log.

        `memory.state.snapshots` lists the copies, under the name of `state_key`, and restores them.
        """
        memory = await self._opened()
        await memory.state.snapshots.take(self.state_key)

    async def process_event(self, event: Mapping[str, Any]) -> Any:
        """Do the work for an event unless it is done.

        If another caller does the work, wait for its end. If that caller dies, its lease expires
        and a waiting caller does the work.

        Args:
            event: has an `id`, the idempotency key of the work.

        Returns:
            The result of `_do_actual_work`; `{"status": "skipped", "reason": "already_processed"}`
            if the work was done before.

        Raises:
            Exception: the error of `_do_actual_work`; the next caller does the work.
            LeaseHeld: other callers did the work for longer than a lease.
            LeaseLost: the work took longer than its lease, and another caller took over.
        """
        key = ops.processed_key(event)
        memory = await self._opened()
        work = AsyncCall(self._do_actual_work)

        async def do() -> None:
            # The result is not stored: it need not be JSON.
            await work.call(event)

        try:
            outcome = await memory.dedupe.run_once(
                key, do, ttl=self._ttl, lease=self._lease, timeout=self._lease
            )
        except CallbackFailed as failed:
            error = work.error or failed
        else:
            if outcome.status == "skipped":
                return {"status": "skipped", "reason": "already_processed"}
            return work.result
        raise error

    async def _do_actual_work(self, event: Mapping[str, Any]) -> Any:
        """Do the work for an event. A subclass implements this."""
        raise InvalidInput(
            f"process_event has no work to do. Make a subclass of {type(self).__name__} with a "
            f"method _do_actual_work(self, event)"
        )

    async def update_with_version(
        self,
        resource_id: str,
        update_fn: Callable[[ops.Fields], ops.Fields | Awaitable[ops.Fields]],
        max_retries: int = 3,
    ) -> ops.Fields:
        """Change the fields of a resource by a function of them, and increment its version.

        The first tries take no lock. The last of several tries queues for the resource's row.

        Args:
            resource_id: the name of the resource.
            update_fn: takes the fields (with the `version`, if there is one) and returns those to
                write; others stay as they are. It is called again after a conflict, so it must
                have no side effects. It must not change the same resource.
            max_retries: number of tries, 1 or more.

        Returns:
            The result of `update_fn`, with the new `version`.

        Raises:
            ConcurrentModificationError: every try ended in a conflict.
            Exception: the error of `update_fn`; nothing was written.
            InvalidValue: a field that is neither a text nor a number; nothing was written.
            OutcomeUnknown: the connection was lost during the write.
        """
        key = ops.resource_key(resource_id)
        check_count(max_retries, "max_retries", minimum=1)
        memory = await self._opened()
        update = AsyncCall(update_fn)

        async def change(value: Any) -> dict[str, str]:
            version = ops.version_of(resource_id, value) + 1
            changed = await update.call(self._format.fields(resource_id, value))
            fields = ops.merged(resource_id, value, changed, version)
            changed[ops.VERSION] = version
            return fields

        try:
            await memory.state.update(key, change, max_retries=max_retries - 1)
        except VersionConflict as lost:
            raise ConcurrentModificationError(
                f"update_with_version of {resource_id!r} had a conflict in {max_retries} of "
                f"{max_retries} tries; nothing was written. Try again, or raise max_retries",
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
