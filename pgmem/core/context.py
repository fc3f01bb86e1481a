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


_attributions: ContextVar[Mapping[int, Attribution]] = ContextVar(
    "pgmem.attributions", default=MappingProxyType({})
)


class WriteContext:
    """The attribution of one memory's events.

    Two memories in one task do not share it, because a position means nothing in another log.

    Args:
        agent_id: the agent, outside every block.
        run_id: the run, outside every block.
    """

    def __init__(self, agent_id: str | None = None, run_id: str | None = None) -> None:
        agent_id = None if agent_id is None else check_name(agent_id, "agent_id")
        self._default = Attribution(agent_id, _metadata(None, run_id, None))

    @property
    def current(self) -> Attribution:
        """The attribution of the block that the caller runs in."""
        return _attributions.get().get(id(self), self._default)

    @property
    def cause(self) -> int | None:
        """The cause of the block that the caller runs in."""
        metadata = self.current.metadata
        return None if metadata is None else metadata.get(CAUSE)

    def set_cause(self, cause: int | None) -> None:
        """Set the cause for the rest of the block that the caller runs in.

        Args:
            cause: a position, or None for no cause.
        """
        agent_id, metadata = self.current
        if cause is not None:
            metadata = {CAUSE: cause} if metadata is None else {**metadata, CAUSE: cause}
        elif metadata is not None:
            metadata = {name: metadata[name] for name in metadata if name != CAUSE} or None
        _attributions.set({**_attributions.get(), id(self): Attribution(agent_id, metadata)})

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
        token = _attributions.set({**_attributions.get(), id(self): inner})
        try:
            yield
        finally:
            _attributions.reset(token)


def _metadata(
    outer: dict[str, Any] | None, run_id: str | None, cause: int | None
) -> dict[str, Any] | None:
    metadata = dict(outer or {})
    if run_id is not None:
        metadata[RUN_ID] = check_name(run_id, RUN_ID)
    if cause is not None:
        metadata[CAUSE] = check_position(cause, CAUSE)
    return metadata or None
