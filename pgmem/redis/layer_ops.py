"""The shapes of the published `SharedMemoryLayer`: its ids, replies, keys and hash fields.

Its users wrote to a Redis client: what they get is bytes, or texts where the client decoded them.
An id here looks like one of a Redis stream and cannot be one::

    0-0000000000000000042
    │ └ the event's position in 19 digits: ids compare as texts, too
    └ a Redis stream has the milliseconds since 1970 here

What is done with all this, `pgmem.redis.layer` knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, Literal

import orjson

from pgmem.core.validation import MAX_POSITION, check_name
from pgmem.errors import InvalidInput, InvalidValue
from pgmem.events.models import RecordedEvent

Text = str | bytes
Reply = list[list[Any]]
Fields = dict[Any, Any]

VERSION = "version"

_OURS = re.compile(r"0-(\d{19})", re.ASCII)
_OF_REDIS = re.compile(r"\d+(-\d+)?", re.ASCII)


def position_of(last_id: Text | int) -> int | Literal["now"]:
    """The position behind which to read.

    Args:
        last_id: "0" or "0-0" for the beginning, "$" for what comes from now on, or an id that
            `read_events` gave; as text or as bytes.

    Raises:
        InvalidInput: it is an id of a Redis stream.
        InvalidInput: it is no id at all.
    """
    text = _decoded(last_id)
    if text in ("0", "0-0"):
        return 0
    if text == "$":
        return "now"
    ours = None if text is None else _OURS.fullmatch(text)
    if ours is not None and int(ours[1]) <= MAX_POSITION:
        return int(ours[1])
    if text is not None and _OF_REDIS.fullmatch(text):
        raise InvalidInput(
            f"read_events after {text[:60]!r}: that is an id of a Redis stream, and events have "
            f"positions here. Begin with '0', or go on from an id that read_events gave; what is "
            f"still unread in Redis is brought in by `pgmem import-redis`, and "
            f"pgmem.redis.importing.position_of then gives its position"
        )
    kind = type(last_id).__name__
    raise InvalidInput(
        f"read_events takes '0', '$' or an id that it gave, as str or bytes: got a {kind} that is "
        f"none of these"
    )


def _decoded(name: Any) -> str | None:
    """A text as a Redis client would have sent it; None if it is none."""
    if isinstance(name, bytes):
        try:
            return name.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(name, int | float) and not isinstance(name, bool):
        return repr(name)
    return name if isinstance(name, str) else None


def latest_keys(state_key: str, agent_id: str, event_type: str) -> list[str]:
    """Where the latest state of an agent and type is: where it is written, then where else.

    The published key is `AGENT:TYPE`, which is the same for the agent `a:b` with the type `c` and
    for `a` with `b:c`. Where a colon makes that possible, the key is written another way; what an
    import from Redis brought along under the old one is still found.

    Raises:
        InvalidInput: as `check_name`.
    """
    check_name(agent_id, "agent_id")
    check_name(event_type, "event_type")
    published = f"{state_key}:{agent_id}:{event_type}"
    if ":" not in agent_id and ":" not in event_type and not agent_id.startswith("["):
        return [published]
    return [f"{state_key}:{orjson.dumps([agent_id, event_type]).decode()}", published]


def processed_key(event: Mapping[str, Any]) -> str:
    """The idempotency key of an event: its `id`, whichever way a Redis client would send it.

    Raises:
        InvalidInput: the event has no id.
        InvalidInput: its id is no text.
    """
    try:
        found = event["id"]
    except (KeyError, TypeError, IndexError):
        raise InvalidInput(
            f"process_event takes an event with an 'id', got a {type(event).__name__} without one"
        ) from None
    text = _decoded(found)
    if not text:
        raise InvalidInput(
            f"the event's id is a text, a number or bytes in UTF-8, and not empty; got "
            f"{type(found).__name__}"
        )
    return f"processed:events:{text}"


def resource_key(resource_id: str) -> str:
    """The key of a resource's entry.

    Raises:
        InvalidInput: it is no text, or empty.
    """
    return f"resource:{check_name(resource_id, 'resource_id')}"


def payload_value(payload: Any) -> Any:
    """A payload as it comes back from JSON: tuples are lists then, and all keys are texts.

    Raises:
        InvalidValue: JSON cannot hold it.
    """
    try:
        return json.loads(json.dumps(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"payload: {error}") from None


class Face:
    """What a Redis client gives: bytes, or texts.

    Args:
        decodes: whether it decodes the responses.
    """

    def __init__(self, *, decodes: bool) -> None:
        self._decodes = decodes

    def text(self, text: str) -> Text:
        """A text as the client gives it."""
        return text if self._decodes else text.encode()

    def reply(self, stream: str, events: Sequence[RecordedEvent]) -> Reply:
        """What XREAD gives for a stream."""
        return [[self.text(stream), [self._entry(event) for event in events]]]

    def _entry(self, event: RecordedEvent) -> tuple[Text, Fields]:
        text = self.text
        at = event.recorded_at.astimezone(UTC).replace(tzinfo=None)  # naive, as it was published
        return text(f"0-{event.position:019}"), {
            text("agent_id"): text(event.agent_id or ""),
            text("event_type"): text(event.type),
            text("payload"): text(json.dumps(event.payload)),
            text("timestamp"): text(at.isoformat()),
        }

    def fields(self, resource_id: str, value: Any) -> Fields:
        """What HGETALL gives for a resource's value; empty if there is none.

        Raises:
            InvalidValue: the value is no object of texts and numbers.
        """
        return {
            self.text(name): self.text(text) for name, text in _texts(resource_id, value).items()
        }


def _texts(resource_id: str, value: Any) -> dict[str, str]:
    """The fields of a stored value, as texts."""
    if value is None:
        return {}
    if isinstance(value, dict):
        found = {name: _decoded(field) for name, field in value.items()}
        odd = next((name for name, text in found.items() if text is None), None)
        if odd is None:
            return {name: text for name, text in found.items() if text is not None}
        what = f"its field {odd[:60]!r} is a {type(value[odd]).__name__}"
    else:
        what = f"it is a {type(value).__name__}"
    raise InvalidValue(
        f"update_with_version of {resource_id!r}: {what}. A hash has fields that are texts or "
        f"numbers: change this one with memory.state.update"
    )


def version_of(resource_id: str, value: Any) -> int:
    """The version that a resource's value carries; 0 if there is none.

    Raises:
        InvalidValue: it carries something else there.
    """
    text = _texts(resource_id, value).get(VERSION, "0")
    try:
        return int(text)
    except ValueError:
        raise InvalidValue(
            f"update_with_version of {resource_id!r}: its field {VERSION!r} is no whole number"
        ) from None


def merged(resource_id: str, value: Any, changed: Any, version: int) -> dict[str, str]:
    """The value after HSET of some fields and the version: all others stay.

    Args:
        resource_id: for messages.
        value: the stored value.
        changed: what the update function gave.
        version: the new version.

    Raises:
        InvalidValue: a name or field is not what a hash can hold.
    """
    if not isinstance(changed, dict):
        raise InvalidValue(
            f"update_with_version of {resource_id!r}: update_fn must return a dict of fields, got "
            f"{type(changed).__name__}"
        )
    fields = _texts(resource_id, value)
    for name, field in changed.items():
        known, text = _decoded(name), _decoded(field)
        if known is None or text is None:
            culprit = name if known is None else field
            raise InvalidValue(
                f"update_with_version of {resource_id!r}: "
                f"{'a field name' if known is None else f'the field {known[:60]!r}'} is a "
                f"{type(culprit).__name__}. A hash holds texts, numbers and bytes in UTF-8: give "
                f"anything else as JSON text"
            )
        fields[known] = text
    fields[VERSION] = str(version)
    return fields
