"""Keep the agent, the run and the cause that events are written with, for a block of code.

The values are kept in a context variable: a task, and a coroutine that it awaits, see those of the
block that they run in. A new task starts with a copy. A new thread starts without any, as it does
for every context variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from pgmem.core.validation import check_name, check_position

RUN_ID = "run_id"
CAUSE = "cause"
"""The names in an event's metadata."""


class Attribution(NamedTuple):
    """The agent and the metadata of events that do not name their own.

    Attributes:
        agent_id: the writing agent.
        metadata: the run and the cause under their names, or None if neither is set.
    """

    agent_id: str | None = None
    metadata: dict[str, Any] | None = None


class _Loop(NamedTuple):
    """The body of a loop over events.

    Attributes:
        context: its memory's.
        cause: the position of its event.
        outer: the loop around it, of any memory.
    """

    context: WriteContext
    cause: int
    outer: _Loop | None


class _Block(NamedTuple):
    """A block of `use`.

    Attributes:
        attribution: what is written in it.
        loop: the innermost loop around it, of which `attribution` already has the cause.
    """

    attribution: Attribution
    loop: _Loop | None


_loops: ContextVar[_Loop | None] = ContextVar("pgmem.loops", default=None)
_blocks: ContextVar[Mapping[int, _Block]] = ContextVar("pgmem.blocks", default=MappingProxyType({}))
"""The innermost block of each context, by the context's id."""


class WriteContext:
    """The attribution of one memory's events.

    Two memories in one task do not share it, because a position means nothing in another log.

    Args:
        agent_id: the agent, outside every block.
        run_id: the run, outside every block.

    Attributes:
        shared: the memory's own context, for one that `as_agent` made; else this one.
    """

    def __init__(self, agent_id: str | None = None, run_id: str | None = None) -> None:
        agent_id = None if agent_id is None else check_name(agent_id, "agent_id")
        self._default = Attribution(agent_id, _metadata(None, run_id, None))
        self.shared: WriteContext = self  # Of all agents that write to the log. Loops are its own.

    @property
    def current(self) -> Attribution:
        """The attribution of the block or loop that the caller runs in."""
        if self.shared is self and _loops.get() is None and not _blocks.get():
            return self._default  # Most writes.
        attribution, around = self._block()
        found = _loops.get()
        while found is not around and found is not None and found.context is not self.shared:
            found = found.outer
        if found is None or found is around:
            return attribution
        return Attribution(attribution.agent_id, _metadata(attribution.metadata, None, found.cause))

    def _block(self) -> _Block:
        """Return the block that the caller runs in, or what stands for it outside every block."""
        return _blocks.get().get(id(self)) or _Block(self._default, None)

    def as_agent(self, agent_id: str, run_id: str | None) -> WriteContext:
        """Return the attribution of another agent that writes to the same log.

        Args:
            agent_id: the agent, 1 to 512 bytes.
            run_id: its run; None for the run of this context.

        Raises:
            InvalidInput: a value is not allowed.
        """
        return _AgentContext(self.shared, agent_id, run_id)

    @contextmanager
    def use(
        self, *, agent_id: str | None = None, run_id: str | None = None, cause: int | None = None
    ) -> Iterator[None]:
        """Set the attribution for a block. What is None stays as it is outside the block.

        Args:
            agent_id: the writing agent, 1 to 512 bytes.
            run_id: the run, 1 to 512 bytes.
            cause: the position of the event that the writes follow from.

        Raises:
            InvalidInput: a value is not allowed.
        """
        outer = self.current
        inner = Attribution(
            outer.agent_id if agent_id is None else check_name(agent_id, "agent_id"),
            _metadata(outer.metadata, run_id, cause),
        )
        token = _blocks.set({**_blocks.get(), id(self): _Block(inner, _loops.get())})
        try:
            yield
        finally:
            _blocks.reset(token)


class _AgentContext(WriteContext):
    """The attribution of an agent beside the memory's own.

    Outside its own blocks it takes what it does not set itself from the memory's blocks.
    """

    def __init__(self, shared: WriteContext, agent_id: str, run_id: str | None) -> None:
        super().__init__(agent_id, run_id)
        self.shared = shared

    def _block(self) -> _Block:
        own = _blocks.get().get(id(self))
        if own is not None:
            return own
        outer, loop = self.shared._block()
        metadata = {**(outer.metadata or {}), **(self._default.metadata or {})}
        return _Block(Attribution(self._default.agent_id, metadata or None), loop)


class LoopCause:
    """Sets the cause for the body of a loop, anew for each of its events.

    A loop has no block that ends with its body. So the cause holds until the next event or `end`.

    Args:
        context: the memory's.
    """

    def __init__(self, context: WriteContext) -> None:
        self._context = context
        self._own: _Loop | None = None
        self._outer: _Loop | None = None

    def begin(self, cause: int) -> None:
        """Let what the caller writes next have the cause, a position."""
        if self._own is None:
            self._outer = _loops.get()
        self._own = own = _new_loop(_Loop, (self._context.shared, cause, self._outer))
        _loops.set(own)

    def end(self) -> None:
        """Undo `begin`, unless the caller runs in a block or loop that is inside this one."""
        if self._own is not None:
            if _loops.get() is self._own:
                _loops.set(self._outer)
            self._own = None


_new_loop = tuple.__new__  # The check of a NamedTuple's arguments would take half of `begin`.


def _metadata(
    outer: dict[str, Any] | None, run_id: str | None, cause: int | None
) -> dict[str, Any] | None:
    metadata = dict(outer or {})
    if run_id is not None:
        metadata[RUN_ID] = check_name(run_id, RUN_ID)
    if cause is not None:
        metadata[CAUSE] = check_position(cause, CAUSE)
    return metadata or None
