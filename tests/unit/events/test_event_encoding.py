"""An event comes back equal from what is stored, or is refused."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pgmem import Event
from pgmem.core.encoding import decode
from pgmem.errors import InvalidValue
from pgmem.events.codec import Codec, encode_event, encode_events
from pgmem.events.event_classes import typed_payload
from pgmem.events.models import RecordedEvent

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=7)))


class Step(BaseModel):
    name: str


class ToolStep(Step):
    arguments: dict[str, int]


class Plan(BaseModel):
    steps: list[Step]


class Placed(Event, type="placed"):
    order_id: int = Field(alias="orderId")


class Paid(Event, type="paid"):
    model_config = ConfigDict(strict=True)
    at: datetime
    amount: Decimal


class CamelEvent(Event, type="camel"):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    order_id: int


class Planned(Event, type="planned"):
    plan: Plan


class Whole(Event, type="whole"):
    payload: Plan


class Tagged(Event, type="tagged"):
    payload: set[str]


class Loose(Event, type="loose"):
    model_config = ConfigDict(extra="allow")
    a: int


class Untyped(Event, type="untyped"):
    pass


class Bag(Event, type="bag"):
    model_config = ConfigDict(extra="allow")


CODEC = Codec()
METADATA = {"trace": "t-1"}

EQUAL_EVENTS = [
    Placed(orderId=7, agent_id="a", metadata=METADATA),
    Paid(at=NOW, amount=Decimal("0.10"), metadata=METADATA),
    CamelEvent(order_id=1, agent_id="a"),
    Planned(plan=Plan(steps=[])),
    Whole(payload=Plan(steps=[Step(name="a")])),
    Tagged(payload={"a", "b"}),
    Loose(a=1, b=2),
    Untyped(payload={"a": 1}),
    Untyped(),
]

REFUSED_EVENTS = [
    (Planned(plan=Plan(steps=[ToolStep(name="a", arguments={})])), r"\$\.plan\.steps\[0\]"),
    (Whole(payload=Plan(steps=[ToolStep(name="a", arguments={})])), r"\$\.payload\.steps\[0\]"),
    (Placed(orderId=7, payload="also"), r"str at \$\.payload"),
    (Bag(b=2), "extra fields"),
    (Untyped(payload=(1, 2)), "a tuple at"),
    (Loose(a=1, b=(1, 2)), "extra fields"),
    (Loose.model_construct(a="sk-123", type="loose"), "loose|Loose"),
]


def read_back(event, encoded):
    recorded = RecordedEvent(
        1, "s", None, encoded.type, decode(encoded.payload), encoded.agent_id,
        decode(encoded.metadata), NOW,
    )  # fmt: skip
    return typed_payload(recorded, type(event))


@pytest.mark.parametrize("given", EQUAL_EVENTS, ids=lambda given: type(given).__name__)
def test_event_comes_back_equal(given):
    for encoded in (encode_event(given, CODEC), encode_events([given, given], CODEC).first()):
        assert read_back(given, encoded) == given


@pytest.mark.parametrize(("given", "said"), REFUSED_EVENTS, ids=lambda given: type(given).__name__)
def test_event_that_would_change_is_refused(given, said):
    for events in ([given], [Event(type="t"), given]):
        with pytest.raises(InvalidValue, match=said) as error:
            encode_events(events, CODEC)
        assert "sk-123" not in str(error.value)


class Money:
    def __init__(self, amount: str) -> None:
        self.amount = amount


def as_json(value: Any) -> Any:
    if isinstance(value, Money):
        return {"money": Decimal(value.amount)}
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"no JSON for {value!r}")


def test_default_converts_what_is_no_json_value():
    codec = Codec(default=as_json)
    assert codec.encode({"a": [Money("0.10")], "b": 1}, "value") == '{"a":[{"money":"0.10"}],"b":1}'
    assert codec.encode_all([Money("1"), 2], "value") == ['{"money":"1"}', "2"]
    assert codec.encode_object({"x": Money("1")}, "metadata") == '{"x":{"money":"1"}}'
    batch = encode_events([Event(type="t", payload=Money("1"), metadata={"x": Money("2")})], codec)
    assert batch.first()[1:] == ('{"money":"1"}', None, '{"x":{"money":"2"}}')


def test_default_gets_only_what_is_no_json_value():
    seen = []
    codec = Codec(default=lambda value: seen.append(value) or str(value))
    assert codec.encode({"a": [None, True, 1, 0.5, "x", Decimal("1")]}, "value").endswith('"1"]}')
    assert seen == [Decimal("1")]


@pytest.mark.parametrize(
    ("default", "value", "said"),
    [
        (as_json, NOW, "default= raised TypeError for a datetime"),
        (lambda value: value, object(), "object at"),
        (lambda value: [value], object(), "object at"),
        (as_json, [Money("1"), math.nan], r"nan at \$\[1\]"),
        (as_json, {1: Money("1")}, "JSON keys are str"),
    ],
)
def test_what_default_cannot_convert_is_refused(default, value, said):
    with pytest.raises(InvalidValue, match=said):
        Codec(default=default).encode(value, "value")
