"""A pydantic model comes back equal from its text, or is refused."""

from __future__ import annotations

import enum
import json
import math
import os
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic.alias_generators import to_camel

from pgmem.core.encoding import encode
from pgmem.errors import InvalidValue, ValueTooLarge

T = TypeVar("T")
LIMIT = 2**20


class Step(BaseModel):
    name: str


class ToolStep(Step):
    arguments: dict[str, int]


class Plan(BaseModel):
    steps: list[Step]


class Union(BaseModel):
    steps: list[ToolStep | Step]


class Anything(BaseModel):
    value: Any


class Aliased(BaseModel):
    order_id: int = Field(alias="orderId")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    order_id: int
    first_step: Step


class WrittenUnderAnother(BaseModel):
    order_id: int = Field(serialization_alias="orderId")


class ReadUnderSeveral(BaseModel):
    order_id: int = Field(validation_alias=AliasChoices("orderId", "order-id"))


class ReadByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    order_id: int = Field(validation_alias=AliasChoices("orderId", "order-id"))


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    amount: Decimal
    id: uuid.UUID
    pair: tuple[int, str]
    tags: frozenset[str]


class Raw(BaseModel):
    data: bytes


class Encoded(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Masked(BaseModel):
    token: SecretStr


class MaskedBytes(BaseModel):
    token: SecretBytes


class Revealed(BaseModel):
    token: SecretStr

    @field_serializer("token", when_used="json")
    def reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()


class Colour(enum.Enum):
    RED = "red"


class Rich(BaseModel):
    amount: Decimal
    at: datetime
    day: date
    clock: time
    wait: timedelta
    id: uuid.UUID
    colour: Colour
    pair: tuple[int, str]
    tags: set[str]
    frozen: frozenset[int]
    numbers: dict[int, str]
    queue: deque[int]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Box(BaseModel, Generic[T]):
    value: T


class Numbers(RootModel[list[int]]):
    pass


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def double(self) -> int:
        return self.width * 2


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    width: int

    @computed_field
    def double(self) -> int:
        return self.width * 2


class Noted(BaseModel):
    width: int
    _note: str = PrivateAttr("")

    def noted(self, note: str) -> Noted:
        self._note = note
        return self


class Hidden(BaseModel):
    shown: int
    hidden: int = Field(0, exclude=True)


class Lowered(BaseModel):
    name: str

    @field_serializer("name")
    def lower(self, name: str) -> str:
        return name.lower()


class Raising(BaseModel):
    name: str

    @field_serializer("name")
    def fail(self, name: str) -> str:
        raise KeyError(name)


class RefusesToRead(BaseModel):
    name: Any = None

    @field_validator("name")
    @classmethod
    def check(cls, name: Any) -> Any:
        if isinstance(name, str):
            raise TypeError(name)
        return name


class EqualById(BaseModel):
    id: int
    step: Step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualById) and self.id == other.id

    __hash__ = None


class Inner(BaseModel):
    data: Json[list[int]]


NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=7)))

EQUAL = [
    Plan(steps=[Step(name="a")]),
    Union(steps=[ToolStep(name="a", arguments={"x": 1}), Step(name="b")]),
    Anything(value={"a": [1, None, "x", 0.5]}),
    Aliased(orderId=7),
    Camel(orderId=7, firstStep=Step(name="a")),
    WrittenUnderAnother(order_id=7),
    ReadByName(order_id=7),
    Strict(
        at=NOW, amount=Decimal("0.10"), id=uuid.UUID(int=1), pair=(1, "x"), tags=frozenset("ab")
    ),
    Raw(data=b"plain"),
    Encoded(data=b"\xff\xfe"),
    Revealed(token=SecretStr("sk-123")),
    Rich(
        amount=Decimal("12345678901234567890.10"), at=NOW, day=NOW.date(), clock=time(1, 2, 3, 4),
        wait=timedelta(days=-1, microseconds=5), id=uuid.UUID(int=5), colour=Colour.RED,
        pair=(1, "x"), tags={"a", "b"}, frozen=frozenset({1, 2}), numbers={1: "a"},
        queue=deque([1]),
    ),
    Home(pet=Cat(lives=3)),
    Home(pet=Dog()),
    Box[int](value=1),
    Box[datetime](value=NOW),
    Box[Union](value=Union(steps=[])),
    Box[float](value=-0.0),
    Numbers([1, 2]),
    Area(width=2),
    Open(width=2, height=3),
    Noted(width=2),
    Hidden(shown=1),
    Lowered(name="low"),
    Inner(data="[1, 2]"),
]  # fmt: skip

REFUSED = [
    (Plan(steps=[ToolStep(name="a", arguments={"x": 1})]), r"ToolStep at \$\.steps\[0\]"),
    (Anything(value=(1, 2)), r"tuple at \$\.value"),
    (Anything(value={1, 2}), r"set at \$\.value"),
    (Anything(value=NOW), r"datetime at \$\.value"),
    (Anything(value=Step(name="a")), r"Step at \$\.value"),
    (Anything(value={1: "a"}), r"dict at \$\.value"),
    (Anything(value=b"x"), r"bytes at \$\.value"),
    (Anything(value=object()), r"object at \$\.value"),
    (Box[dict[str, Any]](value={"a": NOW}), r"datetime at \$\.value\.a"),
    (ReadUnderSeveral.model_validate({"orderId": 7}), "cannot read it back: missing"),
    (Raw(data=b"\xff\xfe"), r"bytes at \$\.data.*base64"),
    (Box[Raw](value=Raw(data=b"\xff\xfe")), r"bytes at \$\.value\.data.*base64"),
    (Masked(token=SecretStr("sk-123")), r"SecretStr at \$\.token.*serializer"),
    (MaskedBytes(token=SecretBytes(b"sk-123")), r"SecretBytes at \$\.token.*serializer"),
    (Box[float](value=math.nan), r"nan at \$\.value"),
    (Box[float](value=math.inf), r"inf at \$\.value"),
    (Box[int](value=2**64), r"integer at \$\.value needs more than 64 bits"),
    (Box[str](value="a\0b"), r"text at \$\.value holds a NUL"),
    (Box[str](value="\ud800"), "value: "),
    (Open(width=2, height=NOW), "extra fields"),
    (Noted(width=2).noted("mine"), "private attributes"),
    (Hidden(shown=1, hidden=2), r"int at \$\.hidden"),
    (Lowered(name="HIGH"), r"str at \$\.name comes back changed"),
    (Raising(name="sk-123"), r"str at \$\.name"),
    (RefusesToRead.model_construct(name="sk-123"), "raised TypeError"),
    (Box[int].model_construct(value="sk-123"), "int_parsing at value"),
    (Box[int].model_construct(), r"\$\.value is not set|missing"),
    (EqualById(id=1, step=ToolStep(name="a", arguments={})), r"ToolStep at \$\.step"),
    (Box[dict[Any, str]](value={1: "a", "1": "b"}), r"dict at \$\.value"),
]


@pytest.mark.parametrize("given", EQUAL, ids=lambda given: type(given).__name__)
def test_model_comes_back_equal(given):
    text = encode(given, "value", limit=LIMIT)
    back = type(given).model_validate_json(text)
    # The text means the same to every JSON reader.
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    assert back == given
    assert type(back) is type(given)


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=lambda given: type(given).__name__)
def test_model_that_would_change_is_refused_without_its_value(given, said):
    # A warning of pydantic would show the value. pytest makes it an error.
    with pytest.raises(InvalidValue, match=said) as error:
        encode(given, "value", limit=LIMIT)
    assert "sk-123" not in str(error.value)
    assert error.value.__cause__ is None


def test_model_over_the_limit_is_too_large():
    with pytest.raises(ValueTooLarge):
        encode(Box[str](value="x" * 100), "value", limit=50)


def test_aliases_are_stored_as_the_class_reads_them():
    assert encode(Aliased(orderId=7), "value", limit=LIMIT) == '{"orderId":7}'
    assert encode(WrittenUnderAnother(order_id=7), "value", limit=LIMIT) == '{"order_id":7}'


def test_computed_fields_are_not_stored():
    assert encode(Area(width=2), "value", limit=LIMIT) == '{"width":2}'


SETS = """
from pydantic import BaseModel, Field
from dataclasses import dataclass
from pgmem.core.encoding import decode, encode
@dataclass
class Point:
    names: set[str]
class Inner(BaseModel):
    tags: frozenset[str] = Field(alias="labels")
class Outer(BaseModel):
    tags: set[str]
    groups: set[frozenset[str]]
    inner: dict[str, list[Inner]]
    pair: tuple[Point, int]
words = [f"w{n}" for n in range(20)]
print(encode(Outer(
    tags=set(words), groups={frozenset(words), frozenset(words[1:])},
    inner={"a": [Inner(labels=words)]}, pair=(Point(set(words)), 1)), "value", limit=10**6))
"""


def test_sets_have_one_text_in_every_process():
    # A retry from another process must not look like another payload.
    texts = {
        subprocess.run(
            [sys.executable, "-c", SETS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_time_that_its_zone_has_twice_is_refused():
    """Python calls it equal to no time with another tzinfo."""
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    with pytest.raises(InvalidValue, match="datetime"):
        encode(Box[datetime](value=twice), "value", limit=LIMIT)
    encode(Box[datetime](value=twice.astimezone(UTC)), "value", limit=LIMIT)


def test_sequence_keeps_the_kind_that_was_given():
    class Listed(BaseModel):
        items: Sequence[int]

    encode(Listed(items=[1, 2]), "value", limit=LIMIT)
    with pytest.raises(InvalidValue, match=r"tuple at \$\.items"):
        encode(Listed(items=(1, 2)), "value", limit=LIMIT)
