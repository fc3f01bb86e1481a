# Generated from pgmem/groups/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.groups`: consumer groups, by name. What a member does is in `pgmem._sync.groups.group`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from pgmem._sync.groups.claims import GroupContext
from pgmem._sync.groups.group import Group
from pgmem.core.validation import check_count
from pgmem.errors import InvalidOption
from pgmem.events.filter import Selection
from pgmem.groups import ops
from pgmem.groups.models import GroupInfo


class Groups:
    """Groups of members that share out the events of a selection. Reached as `memory.groups`."""

    def __init__(self, context: GroupContext) -> None:
        self._context = context
        self._executor = context.reader.executor

    def open(
        self,
        name: str,
        *,
        stream: str | Sequence[str] | None = None,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
        start: int | Literal["now"] = 0,
        ordered_by: str | None = None,
        max_attempts: int = 5,
        model: type[BaseModel] | None = None,
    ) -> Group:
        """Make a group, or join the one of that name.

        >>> from pgmem import Event
        >>> receipt = memory.events.append("orders", Event(type="placed", payload={"n": 1}))
        >>> group = memory.groups.open("billing", stream="orders")
        >>> for delivery in group.read("worker-1"):
        ...     print(delivery.event.payload, delivery.attempts)
        ...     delivery.ack()
        {'n': 1} 1

        Args:
            name: its name, 1 to 512 bytes.
            stream: only this stream, or only these; None for all.
            prefix: only streams whose name begins so.
            type: only events of this type.
            agent_id: only events of this agent.
            start: where a new group begins: 0 with the oldest event that is kept, "now" with the
                next one to be written, or behind this position.
            ordered_by: "stream", or the name of a key of the payload: events that agree in it are
                never with two members at once, and are handed out in the order of the log.
            max_attempts: how often an event is handed out before it is a dead letter.
            model: a pydantic model to validate the payloads with.

        Raises:
            GroupMismatch: it exists, and follows something else.
            InvalidInput: a name or option that is not allowed; a `start` above the head.
            PositionTrimmed: retention has removed events behind `start`.
        """
        group = ops.Group(
            name,
            Selection.of(stream, prefix=prefix, type=type, agent_id=agent_id),
            ordered_by,
            max_attempts,
        )
        if isinstance(start, str) and start != "now":
            raise InvalidOption(f"start is a position or 'now', got {start[:40]!r}")
        begin = None if start == "now" else check_count(start, "start", minimum=0)
        self._executor.execute(ops.open_group(group, start=begin))
        return Group(self._context, group, model)

    def join(self, name: str, *, model: type[BaseModel] | None = None) -> Group:
        """Join a group that exists, knowing only its name: it goes on with what it follows.

        For who looks after groups, and for members that are not to make one by mistake.

        Args:
            name: its name, 1 to 512 bytes.
            model: a pydantic model to validate the payloads with.

        Raises:
            GroupNotFound: there is none of that name.
            GroupMismatch: a newer version of pgmem has made it, and it follows what this one
                cannot.
        """
        return Group(self._context, self._executor.execute(ops.join(name)), model)

    def list(self) -> list[GroupInfo]:
        """All groups, in the order of their names."""
        return self._executor.execute(ops.list_groups())

    def get(self, name: str) -> GroupInfo | None:
        """One group, or None if there is none of that name.

        Args:
            name: its name, 1 to 512 bytes.
        """
        return self._executor.execute(ops.get(name))

    def delete(self, name: str) -> bool:
        """Forget a group, with what is open in it, and its dead letters.

        Args:
            name: its name, 1 to 512 bytes.

        Returns:
            Whether there was one.

        Raises:
            OutcomeUnknown: the connection was lost under way; `get` tells.
        """
        gone = self._executor.execute(ops.delete(name))
        if name in self._context.known:
            self._context.known[name].forget()
        return gone
