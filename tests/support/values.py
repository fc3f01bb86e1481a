"""Random values, pydantic models and event classes, for proofs about what comes back."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretBytes,
    SecretStr,
    ValidationError,
    create_model,
)

from pgmem import Event
from pgmem.errors import InvalidValue


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Level(enum.IntEnum):
    LOW = 1


class Step(BaseModel):
    name: str = ""


class ToolStep(Step):
    limit: int = 0


class Aliased(BaseModel):
    order_id: int = Field(0, alias="orderId")


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


Names = RootModel[set[str]]

texts = st.text(st.characters(codec=None), max_size=8)
"""NUL characters and lone surrogates too."""
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**66), 2**66), st.floats(), texts, st.just(-0.0)
)
"""NaN, infinities, and integers of more than 64 bits too."""
zones = st.none() | st.builds(timezone, st.timedeltas(timedelta(hours=-20), timedelta(hours=20)))
times = st.datetimes(timezones=zones)
others = st.one_of(
    st.binary(max_size=6), st.decimals(), times, st.dates(), st.uuids(), st.timedeltas(),
    st.sampled_from([*Colour, *Level]), st.builds(object), st.complex_numbers(),
)  # fmt: skip


def _json(items):
    return st.lists(items, max_size=4) | st.dictionaries(texts, items, max_size=4)


def _python(items):
    return st.one_of(
        _json(items),
        st.tuples(items, items),
        st.frozensets(st.integers() | texts, max_size=3),
        st.dictionaries(st.integers() | st.none() | texts, items, max_size=3),
    )


json_values = st.recursive(leaves, _json, max_leaves=10)
values = json_values | st.recursive(leaves | others, _python, max_leaves=10)
"""JSON values, and values that JSON does not have."""


class Typed(NamedTuple):
    """A type, and a strategy for the values of a field of that type."""

    kind: Any
    values: st.SearchStrategy[Any]


_steps = st.builds(Step, name=texts) | st.builds(ToolStep, name=texts, limit=st.integers())
_KEYS = (
    Typed(int, st.integers(-(2**66), 2**66)), Typed(str, texts),
    Typed(bytes, st.binary(max_size=6)),
    Typed(bool, st.booleans()), Typed(UUID, st.uuids()), Typed(Colour, st.sampled_from(Colour)),
    Typed(date, st.dates()), Typed(Decimal, st.decimals(allow_nan=False)),
    Typed(datetime, times),
)  # fmt: skip
_LEAVES = (
    *_KEYS, Typed(Decimal, st.decimals()), Typed(float, st.floats()), Typed(Any, values),
    Typed(Level, st.sampled_from(Level)),
    Typed(timedelta, st.timedeltas()), Typed(time, st.times()), Typed(Step, _steps),
    Typed(ToolStep | Step, _steps), Typed(SecretStr, st.builds(SecretStr, texts)),
    Typed(SecretBytes, st.builds(SecretBytes, st.binary(max_size=4))),
    Typed(Aliased, st.builds(Aliased, orderId=st.integers())),
    Typed(Extra, st.builds(Extra, x=values)), Typed(complex, st.complex_numbers()),
    Typed(Names, st.builds(Names, st.sets(texts, max_size=3))),
)  # fmt: skip


def _composed(inner):
    keys = st.sampled_from(_KEYS)
    return st.one_of(
        inner.map(lambda one: Typed(list[one.kind], st.lists(one.values, max_size=3))),
        inner.map(lambda one: Typed(one.kind | None, st.none() | one.values)),
        st.tuples(inner, inner).map(
            lambda two: Typed(
                tuple[two[0].kind, two[1].kind], st.tuples(two[0].values, two[1].values)
            )
        ),
        st.tuples(inner, inner).map(
            lambda two: Typed(two[0].kind | two[1].kind, two[0].values | two[1].values)
        ),
        keys.map(lambda one: Typed(set[one.kind], st.sets(one.values, max_size=3))),
        keys.map(lambda one: Typed(frozenset[one.kind], st.frozensets(one.values, max_size=3))),
        st.tuples(keys, inner).map(
            lambda two: Typed(
                dict[two[0].kind, two[1].kind],
                st.dictionaries(two[0].values, two[1].values, max_size=3),
            )
        ),
    )


_types = st.recursive(st.sampled_from(_LEAVES), _composed, max_leaves=3)
_configs = st.fixed_dictionaries(
    {},
    optional={
        "strict": st.booleans(),
        "extra": st.sampled_from(["allow", "forbid", "ignore"]),
        "populate_by_name": st.booleans(),
        "ser_json_bytes": st.sampled_from(["utf8", "base64", "hex"]),
        "val_json_bytes": st.sampled_from(["utf8", "base64", "hex"]),
        "ser_json_timedelta": st.sampled_from(["iso8601", "float"]),
        "ser_json_inf_nan": st.sampled_from(["null", "constants", "strings"]),
        "use_enum_values": st.booleans(),
    },
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        "alias": st.sampled_from(["theName", "type", "payload"]),
        "validation_alias": st.sampled_from(["inName", AliasChoices("one", "two")]),
        "serialization_alias": st.just("outName"),
        "exclude": st.booleans(),
    },
)


@st.composite
def models(draw, base=None):
    """Draw an instance of a new class: of a model, or of an event class (`base=Event`).

    Some were never validated, and have any value in any field.
    """
    typed = draw(st.lists(_types, min_size=1, max_size=3))
    plain = draw(st.booleans())  # Most fields with options of several kinds do not come back.
    fields = {
        f"f{n}": (one.kind, Field(**({} if plain else draw(_fields))))
        for n, one in enumerate(typed)
    }
    options = {"__base__": create_base(base, {} if plain else draw(_configs))}
    if base is Event:
        options["__cls_kwargs__"] = {"type": "random"}
    try:
        cls = create_model("Random", **options, **fields)
    except InvalidValue:
        return base(type="random")
    given = {f"f{n}": draw(one.values) for n, one in enumerate(typed)}
    if draw(st.integers(0, 9)) == 0:
        given |= {name: draw(values) for name in draw(st.sets(st.sampled_from(sorted(given))))}
        return cls.model_construct(**({"type": "random"} if base is Event else {}), **given)
    try:
        return cls.model_validate(given, by_name=True, by_alias=False)
    except (ValidationError, InvalidValue, InvalidOperation):
        # The last one is Python's own: an Enum cannot be looked up by a signaling NaN.
        return cls.model_construct(**({"type": "random"} if base is Event else {}), **given)


def create_base(base, config):
    """Return a class to inherit from, with a configuration."""
    return type("Base", (base or BaseModel,), {"model_config": ConfigDict(**config)})
