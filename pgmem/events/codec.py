"""How a memory writes and reads the values of its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgmem.core.encoding import DEFAULT_MAX_BYTES
from pgmem.errors import InvalidInput
from pgmem.events.models import Event, RecordedEvent


@dataclass(frozen=True, slots=True)
class Codec:
    """How this memory writes and reads values.

    Attributes:
        max_bytes: limit of one payload, value or metadata, in bytes of JSON text.
        agent_id: who writes, where an event does not say.
        registry: event classes by type name.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    agent_id: str | None = None
    registry: Mapping[str, type[Event]] = field(default_factory=dict)


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
