"""Encode and decode the events of a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgmem.core.context import WriteContext
from pgmem.core.encoding import DEFAULT_MAX_BYTES
from pgmem.errors import InvalidInput
from pgmem.events.models import Event, RecordedEvent


@dataclass(frozen=True, slots=True)
class Codec:
    """How this memory writes and reads values.

    Attributes:
        max_bytes: limit of one payload, value or metadata, in bytes of JSON text.
        context: the agent, run and cause of events that do not name their own.
        registry: event classes by type name.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    context: WriteContext = field(default_factory=WriteContext)
    registry: Mapping[str, type[Event]] = field(default_factory=dict)

    @property
    def agent_id(self) -> str | None:
        """The writing agent."""
        return self.context.current.agent_id

    def attribute(self, event: Event | None = None) -> tuple[str | None, dict[str, Any] | None]:
        """Return the agent id and the metadata that an event is written with.

        Args:
            event: the caller's event; None for one that pgmem makes.
        """
        agent_id, metadata = self.context.current
        if event is None:
            return agent_id, metadata
        if event.agent_id is not None:
            agent_id = event.agent_id
        own = event.metadata
        if own is None or metadata is None or not isinstance(own, dict):
            return agent_id, metadata if own is None else own
        return agent_id, {**metadata, **own}


def event_registry(classes: tuple[type[Event], ...]) -> dict[str, type[Event]]:
    """Event classes by their type name.

    Raises:
        InvalidInput: one is no subclass of Event, or two have the same type name.
    """
    registry: dict[str, type[Event]] = {}
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Event)) or cls.event_type is None:
            raise InvalidInput(f"events= takes subclasses of pgmem.Event, got {cls!r}")
        if cls.event_type in registry:
            raise InvalidInput(
                f"two event classes have the type {cls.event_type!r}: "
                f"{registry[cls.event_type].__name__} and {cls.__name__}"
            )
        registry[cls.event_type] = cls
    return registry


def typed_event(event: RecordedEvent, registry: Mapping[str, type[Event]]) -> RecordedEvent:
    """The event with its payload as an instance of the class registered for its type, if any.

    Raises:
        InvalidValue: the stored payload does not fit the class.
    """
    cls = registry.get(event.type)
    if cls is None:
        return event
    return event._replace(payload=cls.from_stored(event.payload, event.agent_id, event.metadata))
