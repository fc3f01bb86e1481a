"""Make instances of event classes from stored events.

::

    stored payload ── upcast[1] ── upcast[2] ──► the class's version ── validate ──► instance
                         (schema_version 1 → 2 → 3)                        └──► InvalidEvent

A writer stores the class's `schema_version` in the event's metadata, beside `run_id` and `cause`,
so it travels wherever the event does: pages, notifications, archives. An event of version 1, the
default, stores nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from orjson import loads
from pydantic import BaseModel, ValidationError

from pgmem.core.encoding import decode
from pgmem.core.op import Row
from pgmem.errors import InvalidEvent, InvalidInput
from pgmem.events.columns import METADATA, PAYLOAD
from pgmem.events.models import SCHEMA_VERSION, Event, RecordedEvent

log = logging.getLogger("pgmem")

M = TypeVar("M", bound=BaseModel)

OnInvalid = Literal["skip", "raise"]


def skips_invalid(on_invalid: str) -> bool:
    """Return True if events that do not fit are skipped, False if they raise.

    Raises:
        InvalidInput: another word.
    """
    if on_invalid not in ("skip", "raise"):
        given = ascii(on_invalid)[:80] if isinstance(on_invalid, str) else type(on_invalid).__name__
        raise InvalidInput(
            f"on_invalid is 'skip' or 'raise' here, got {given}; a group also takes 'dead_letter'"
        )
    return on_invalid == "skip"


def stored_event(row: Row) -> RecordedEvent:
    """Return a row as an event with its payload as it is stored."""
    columns = list(row)
    columns[PAYLOAD] = decode(columns[PAYLOAD])
    if columns[METADATA] is not None:
        columns[METADATA] = decode(columns[METADATA])
    return _new(RecordedEvent, columns)


def stored_events(rows: Sequence[Row]) -> list[RecordedEvent]:
    """Return rows as events, each as `stored_event` does."""
    events = []
    for row in rows:
        columns = list(row)
        columns[PAYLOAD] = loads(columns[PAYLOAD])
        if columns[METADATA] is not None:
            columns[METADATA] = loads(columns[METADATA])
        events.append(_new(RecordedEvent, columns))
    return events


_new = tuple.__new__  # RecordedEvent._make without its check


def event_registry(classes: tuple[type[Event], ...]) -> dict[str, type[Event]]:
    """Return event classes by their type name.

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


def typed_payload(event: RecordedEvent, cls: type[Event]) -> Event:
    """Return the payload of a stored event as an instance of its class.

    Fields that the class does not know are ignored, unless it has `extra="forbid"`. An upcaster may
    change the payload of `event`.

    Raises:
        InvalidEvent: the payload does not fit the class, or an upcaster failed.
    """
    payload = _upcast(event, cls)
    if cls.payload_fields and not isinstance(payload, dict):
        raise misfit(event, cls.__name__, None, "it is no JSON object")
    try:
        return cls._build(payload, event.agent_id, event.metadata)
    except Exception as error:
        raise invalid_event(event, cls.__name__, error) from None


def _upcast(event: RecordedEvent, cls: type[Event]) -> Any:
    """Return the payload in the form of the class's version.

    Raises:
        InvalidEvent: the stored version is no whole number from 1, or an upcaster failed.
    """
    payload, wanted = event.payload, cls.event_schema_version
    if wanted == 1:
        return payload
    stored = (event.metadata or {}).get(SCHEMA_VERSION, 1)
    if type(stored) is not int or stored < 1:
        raise misfit(
            event, cls.__name__, f"metadata.{SCHEMA_VERSION}", "it is no whole number from 1 on"
        )
    for version in range(stored, wanted):
        upcaster = cls.event_upcasters.get(version)
        if upcaster is None:
            continue  # The change was compatible.
        try:
            payload = upcaster(payload)
        except Exception as error:
            raise misfit(
                event,
                cls.__name__,
                None,
                f"its upcaster from version {version} raised {type(error).__name__}",
            ) from error
    return payload


def log_skipped(error: InvalidEvent) -> None:
    """Log that a reader goes on without an event."""
    log.error("skipped: %s", error)


def invalid_event(event: RecordedEvent, name: str, error: Exception) -> InvalidEvent:
    """Return the error for an event whose validation failed, without its values.

    Args:
        event: the event with its payload as it is stored.
        name: the class.
        error: what pydantic raised, or a validator of the class. It may hold values.
    """
    if not isinstance(error, ValidationError):
        return misfit(event, name, None, f"it raised {type(error).__name__}")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    more = error.error_count() - 1
    return misfit(event, name, field, first["msg"] + (f" ({more} more do not fit)" if more else ""))


def validate_payload(row: Row, model: type[M], text: str | None = None) -> M:
    """Return the payload of a stored event, validated with a model.

    Args:
        row: the event.
        model: the model.
        text: the value of a state change, if it is not the payload.

    Raises:
        InvalidEvent: it does not fit the model.
    """
    try:
        return model.model_validate_json(row[PAYLOAD] if text is None else text)
    except Exception as error:
        raise invalid_event(stored_event(row), model.__name__, error) from None


def misfit(event: RecordedEvent, name: str, field: str | None, reason: str) -> InvalidEvent:
    """Return the error for an event that does not fit a class.

    Args:
        event: the event with its payload as it is stored.
        name: the class.
        field: the first field that does not fit; None for the whole payload.
        reason: why, without a value.
    """
    at = "its payload" if field is None else f"its field {field}"
    return InvalidEvent(
        f"the event at position {event.position} (type {event.type!r}, stream {event.stream!r}) "
        f"does not fit {name}: {at}: {reason}. An upcaster or a default makes it fit; `event` of "
        f"InvalidEvent has its stored payload",
        event=event,
        field=field,
    )


def registered(registry: Mapping[str, type[Event]], event: RecordedEvent) -> RecordedEvent:
    """Return the event with its payload as an instance of the class registered for its type.

    Raises:
        InvalidEvent: as `typed_payload`.
    """
    cls = registry.get(event.type)
    return event if cls is None else event._replace(payload=typed_payload(event, cls))
