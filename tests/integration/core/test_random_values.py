"""Random values, models and events come back equal, or are refused before the write."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pgmem import Event
from pgmem.core.encoding import decode
from pgmem.errors import InvalidInput
from pgmem.events.codec import Codec, encode_event
from pgmem.events.event_classes import typed_payload
from pgmem.events.models import RecordedEvent
from tests.support.options import size
from tests.support.values import models, values

pytestmark = pytest.mark.sized


def examples(number):
    """Run a test with a number of examples."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@examples(size(10_000, 100))
@given(value=values)
def test_random_value_comes_back_equal_or_is_refused(memory, value):
    head = memory.events.head()
    try:
        written = memory.state.put("k", value)
        memory.events.append("s", Event(type="t", payload=value, metadata={"x": value}))
    except InvalidInput:
        assert memory.events.head() == head
        return
    (event,) = memory.events.read("s", after=written.position)
    found = (memory.state.get("k").value, event.payload, event.metadata["x"])
    assert found == (value,) * 3


@examples(size(10_000, 100))
@given(value=models())
def test_random_model_comes_back_equal_or_is_refused(memory, value):
    head = memory.events.head()
    try:
        written = memory.state.put("k", value)
        memory.events.append("s", Event(type="t", payload=value))
    except InvalidInput:
        assert memory.events.head() == head
        return
    cls = type(value)
    (event,) = memory.events.read("s", after=written.position, model=cls)
    for found in (memory.state.get("k", model=cls).value, event.payload):
        assert found == value
        assert same_fields(found, value)


@examples(size(2_000, 100))
@given(event=models(Event))
def test_random_event_comes_back_equal_or_is_refused(event):
    try:
        encoded = encode_event(event, Codec())
    except InvalidInput:
        return
    found = read_back(event, encoded)
    assert found == event
    assert same_fields(found, event)


def read_back(event, encoded):
    recorded = RecordedEvent(
        1, "s", None, encoded.type, decode(encoded.payload), encoded.agent_id,
        decode(encoded.metadata), datetime.now(UTC),
    )  # fmt: skip
    return typed_payload(recorded, type(event))


def same_fields(one, other):
    """Compare by the values alone, so that a class's own comparison cannot hide a difference."""
    return one.model_dump(serialize_as_any=True, warnings=False) == other.model_dump(
        serialize_as_any=True, warnings=False
    )
