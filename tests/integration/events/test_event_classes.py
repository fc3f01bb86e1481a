"""Event classes that change: unknown fields, schema versions, upcasters, events that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from pgmem import Event, InvalidEvent, InvalidInput, InvalidValue, PgmemError

SECRET = "secret-value"


class Placed(Event, type="placed"):
    amount: int
    currency: str = "VND"


class Forbidding(Event, type="placed", extra="forbid"):
    amount: int


class Second(Event, type="placed", upcast={1: lambda old: {**old, "currency": "EUR"}}):
    amount: int
    currency: str


def split(old: dict[str, Any]) -> dict[str, Any]:
    old["cents"] = old.pop("amount") * 100  # An upcaster may change what it is given.
    return old


class Third(
    Event, type="placed", schema_version=4, upcast={1: Second.event_upcasters[1], 3: split}
):
    cents: int
    currency: str


async def append(memory, *payloads, metadata=None):
    await memory.events.append(
        "orders", [Event(type="placed", payload=one, metadata=metadata) for one in payloads]
    )


async def read_one(form, cls):
    async with form.memory(events=[cls]) as memory:
        (event,) = await memory.events.read("orders", on_invalid="raise")
    return event


async def test_reading_ignores_unknown_fields(form):
    async with form.memory() as memory:
        await append(memory, {"amount": 5, "color": "red", "type": "x", "payload": 1})
    assert (await read_one(form, Placed)).payload == Placed(amount=5)


async def test_a_class_that_forbids_unknown_fields_forbids_them_in_reads(form):
    async with form.memory() as memory:
        await append(memory, {"amount": 5, "color": SECRET})
    with pytest.raises(InvalidEvent) as failure:
        await read_one(form, Forbidding)
    assert failure.value.field == "color"
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("cls", [Placed, Forbidding])
def test_making_an_event_refuses_unknown_fields(cls):
    with pytest.raises(InvalidValue, match="amonut"):
        cls(amount=5, amonut=5)
    with pytest.raises(InvalidValue, match="colour"):
        Event(type="t", colour=1)


def test_a_field_is_given_by_the_names_that_its_class_allows():
    class Aliased(Event):
        n: int = Field(0, alias="count")
        m: int = Field(0, validation_alias=AliasChoices("a", "b"))

    assert (Aliased(count=5, b=2).n, Aliased(b=2).m) == (5, 2)
    with pytest.raises(InvalidValue, match="'n'"):
        Aliased(n=5)  # pydantic would take the default.

    class ByName(Event):
        model_config = ConfigDict(populate_by_name=True)
        n: int = Field(0, alias="count")

    assert (ByName(n=5).n, ByName(count=6).n) == (5, 6)


async def test_extra_fields_of_a_class_that_allows_them_are_stored(form):
    class Open(Event, extra="allow"):
        amount: int

    async with form.memory(events=[Open]) as memory:
        given = Open(amount=5, color="red")
        await memory.events.append("orders", given)
        (event,) = await memory.events.read("orders")
    assert event.payload == given
    assert event.payload.color == "red"


async def test_upcasters_lead_an_old_payload_to_the_version_of_the_class(form):
    async with form.memory() as memory:
        await append(memory, {"amount": 5})
    assert (await read_one(form, Second)).payload == Second(amount=5, currency="EUR")
    event = await read_one(form, Third)
    assert event.payload == Third(cents=500, currency="EUR")
    assert event.schema_version == 1
    assert event.payload.event_schema_version == 4


async def test_the_version_of_its_class_is_stored_with_an_event(form):
    async with form.memory(events=[Second], run_id="run-1") as memory:
        await memory.events.append("orders", Second(amount=5, currency="USD"))
        await memory.state.put("order:1", 1, event=Second(amount=6, currency="USD"))
        await memory.events.append(
            "orders",
            [Second(amount=7, currency="USD", metadata={"trace": "t"}), Event(type="other")],
        )
        found = await memory.events.read()
        (late,) = await memory.events.read("orders", reverse=True, limit=1)
    assert [event.schema_version for event in found] == [2, 2, 2, 1]
    assert found[0].metadata == {"run_id": "run-1", "schema_version": 2}
    assert found[2].metadata == {"run_id": "run-1", "trace": "t", "schema_version": 2}
    assert late.metadata == {"run_id": "run-1"}
    event = (await read_events(form, Third))[0]
    assert event.payload.cents == 500
    assert event.payload.currency == "USD"  # The upcaster from version 1 was not called.


async def read_events(form, cls, **options):
    async with form.memory(events=[cls]) as memory:
        return await memory.events.read("orders", **options)


async def test_an_event_that_was_read_is_written_again_with_the_version_of_its_class(form):
    async with form.memory() as memory:
        await append(memory, {"amount": 5})
    async with form.memory(events=[Second]) as memory:
        (first,) = await memory.events.read("orders")
        await memory.events.append("orders", first.payload)
        again = (await memory.events.read("orders"))[1]
    assert (again.schema_version, again.payload.currency) == (2, "EUR")
    async with form.memory(events=[Placed]) as memory:  # An old process, during a deployment.
        event = (await memory.events.read("orders"))[1]
        assert event.schema_version == 2
        await memory.events.append("orders", event.payload)
        assert (await memory.events.read("orders"))[2].schema_version == 1


async def test_an_event_that_does_not_fit_its_class_says_which_and_where(form):
    async with form.memory() as memory:
        await append(memory, {"amount": 1}, {"amount": SECRET})
    async with form.memory(events=[Placed]) as memory:
        with pytest.raises(InvalidEvent) as failure:
            await memory.events.get(2)
    error = failure.value
    assert (error.stream, error.position, error.type, error.field) == (
        "orders",
        2,
        "placed",
        "amount",
    )
    assert error.event.payload == {"amount": SECRET}
    for part in ("orders", "2", "placed", "amount", "Placed"):
        assert part in str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert isinstance(error, PgmemError)


async def test_an_event_that_does_not_fit_model_says_which_and_where(both):
    class Lines(BaseModel):
        lines: list[int]

    await append(both, {"lines": [1, SECRET]})
    with pytest.raises(InvalidEvent) as failure:
        await both.events.get(1, model=Lines)
    assert (failure.value.position, failure.value.field) == (1, "lines.1")
    assert failure.value.event.payload == {"lines": [1, SECRET]}
    assert SECRET not in str(failure.value)


async def test_a_payload_of_another_kind_has_no_field(form):
    async with form.memory() as memory:
        await append(memory, [1, 2])
    for cls in (Placed, Second):
        async with form.memory(events=[cls]) as memory:
            with pytest.raises(InvalidEvent) as failure:
                await memory.events.get(1)
            assert failure.value.field is None
            assert failure.value.event.payload == [1, 2]


async def test_an_upcaster_that_raises_concerns_its_event(form):
    def fail(old):
        old.clear()
        raise KeyError("currency")

    class Failing(Event, type="placed", upcast={1: fail}):
        amount: int

    async with form.memory() as memory:
        await append(memory, {"amount": 5})
    async with form.memory(events=[Failing]) as memory:
        with pytest.raises(
            InvalidEvent, match="upcaster from version 1 raised KeyError"
        ) as failure:
            await memory.events.get(1)
    assert failure.value.event.payload == {"amount": 5}  # as it is stored
    assert isinstance(failure.value.__cause__, KeyError)


@pytest.mark.parametrize("version", ["2", 0, 1.5, True])
async def test_a_stored_version_that_is_none_concerns_its_event(form, version):
    async with form.memory() as memory:
        await append(memory, {"amount": 5, "currency": "EUR"}, metadata={"schema_version": version})
    assert (await read_one(form, Placed)).payload.amount == 5  # Its class has one version only.
    with pytest.raises(InvalidEvent) as failure:
        await read_one(form, Second)
    assert failure.value.field == "metadata.schema_version"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"schema_version": 0}, "whole number"),
        ({"schema_version": "2"}, "whole number"),
        ({"schema_version": True}, "whole number"),
        ({"upcast": {0: split}}, "whole number"),
        ({"upcast": {1: "split"}}, "function"),
        ({"schema_version": 2, "upcast": {2: split}}, "upcasters lead from older versions"),
    ],
)
def test_wrong_versions_are_refused_by_the_class_statement(options, word):
    with pytest.raises(InvalidInput, match=word):
        type("Wrong", (Event,), {}, **options)
