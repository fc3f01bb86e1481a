"""Convert the ids, replies, keys and hash fields of the published `SharedMemoryLayer`.

Its callers expect what a Redis client returns: bytes, or texts if the client decodes. An id here
looks like an id of a Redis stream and cannot be one::

    0-0000000000000000042
    │ └ the event's position in 19 digits, so ids compare as texts too
    └ a Redis stream has the milliseconds since 1970 here
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
    """Return the position to read after.

    Args:
        last_id: "0" or "0-0" for the beginning, "$" for events from now on, or an id that
            `read_events` returned; as text or as bytes.

    Raises:
        InvalidInput: it is an id of a Redis stream, or no id.
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
            f"read_events got {text[:60]!r}, which is an id of a Redis stream. Begin with '0', or "
            f"continue from an id that read_events returned. To read the entries of a Redis stream "
            f"here, run `pgmem import-redis`; pgmem.redis.position_of then finds their positions"
        )
    kind = type(last_id).__name__
    raise InvalidInput(
        f"read_events takes '0', '$' or an id that it returned, as str or bytes, and got a {kind} "
        f"that is none of these"
    )


def _decoded(name: Any) -> str | None:
    """Return a name as the text that a Redis client would send; None if it has none."""
    if isinstance(name, bytes):
        try:
            return name.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(name, int | float) and not isinstance(name, bool):
        return repr(name)
    return name if isinstance(name, str) else None


def latest_keys(state_key: str, agent_id: str, event_type: str) -> list[str]:
    """Return the keys of the latest state of an agent and type. The first one is written.

    The published key is `AGENT:TYPE`, which is the same for the agent `a:b` with the type `c` and
    for `a` with `b:c`. If a name has a colon, the key is a JSON array instead. The published key is
    read too, because an import from Redis writes it.

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
    """Return the idempotency key of an event, made from its `id`.

    Raises:
        InvalidInput: the event has no id, or its id is no text.
    """
    try:
        found = event["id"]
    except (KeyError, TypeError, IndexError):
        raise InvalidInput(
            f"process_event takes an event with an 'id', and got a {type(event).__name__} without"
        ) from None
    text = _decoded(found)
    if not text:
        raise InvalidInput(
            f"the event's id must be a text, a number or bytes in UTF-8, and not empty; got "
            f"{type(found).__name__}"
        )
    return f"processed:events:{text}"


def resource_key(resource_id: str) -> str:
    """Return the key of a resource's entry.

    Raises:
        InvalidInput: it is no text, or empty.
    """
    return f"resource:{check_name(resource_id, 'resource_id')}"


def payload_value(payload: Any) -> Any:
    """Return a payload as JSON returns it: tuples become lists, and keys become texts.

    Raises:
        InvalidValue: JSON cannot hold it.
    """
    try:
        return json.loads(json.dumps(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"payload: {error}") from None


class ReplyFormat:
    """Format replies as a Redis client does.

    Args:
        decodes: return texts instead of bytes.
    """

    def __init__(self, *, decodes: bool) -> None:
        self._decodes = decodes

    def text(self, text: str) -> Text:
        """Return a text as the client would."""
        return text if self._decodes else text.encode()

    def reply(self, stream: str, events: Sequence[RecordedEvent]) -> Reply:
        """Return events as the reply of XREAD."""
        return [[self.text(stream), [self._entry(event) for event in events]]]

    def _entry(self, event: RecordedEvent) -> tuple[Text, Fields]:
        text = self.text
        at = event.recorded_at.astimezone(UTC).replace(tzinfo=None)  # naive, as published
        return text(f"0-{event.position:019}"), {
            text("agent_id"): text(event.agent_id or ""),
            text("event_type"): text(event.type),
            text("payload"): text(json.dumps(event.payload)),
            text("timestamp"): text(at.isoformat()),
        }

    def fields(self, resource_id: str, value: Any) -> Fields:
        """Return a resource's value as the reply of HGETALL; empty if there is none.

        Raises:
            InvalidValue: the value is not an object of texts and numbers.
        """
        return {
            self.text(name): self.text(text) for name, text in _texts(resource_id, value).items()
        }


def _texts(resource_id: str, value: Any) -> dict[str, str]:
    """Return the fields of a stored value as texts."""
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
        f"update_with_version of {resource_id!r} needs fields that are texts or numbers, and "
        f"{what}. Change this entry with memory.state.update"
    )


def version_of(resource_id: str, value: Any) -> int:
    """Return the version in a resource's value; 0 if there is none.

    Raises:
        InvalidValue: its version is no whole number.
    """
    text = _texts(resource_id, value).get(VERSION, "0")
    try:
        return int(text)
    except ValueError:
        raise InvalidValue(
            f"the field {VERSION!r} of the resource {resource_id!r} is no whole number"
        ) from None


def merged(resource_id: str, value: Any, changed: Any, version: int) -> dict[str, str]:
    """Return the value after HSET of some fields and the version. Other fields stay.

    Args:
        resource_id: the resource, for messages.
        value: the stored value.
        changed: the fields that the update function returned.
        version: the new version.

    Raises:
        InvalidValue: a name or field that a hash cannot hold.
    """
    if not isinstance(changed, dict):
        raise InvalidValue(
            f"update_fn must return a dict of fields, and returned a {type(changed).__name__} for "
            f"{resource_id!r}"
        )
    fields = _texts(resource_id, value)
    for name, field in changed.items():
        known, text = _decoded(name), _decoded(field)
        if known is None or text is None:
            culprit = name if known is None else field
            raise InvalidValue(
                f"update_with_version of {resource_id!r} got a {type(culprit).__name__} as "
                f"{'the name of a field' if known is None else f'the field {known[:60]!r}'}. A "
                f"hash holds texts, numbers and bytes in UTF-8. Give other values as JSON text"
            )
        fields[known] = text
    fields[VERSION] = str(version)
    return fields
