"""`memory.validate`: no write of a memory stores a value that does not fit its key's model."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, RootModel

from pgmem.errors import InvalidInput, InvalidValue, VersionConflict


class Order(BaseModel):
    status: str
    total: int = 0


class Positive(RootModel[int]):
    def model_post_init(self, _):
        if self.root <= 0:
            raise ValueError("not positive")


GOOD, BAD = {"status": "open"}, {"status": 7}
REFUSED = pytest.raises(InvalidValue, match="the value of state 'order:1' does not fit Order: ")

WRITES = {
    "put": lambda m, value: m.state.put("order:1", value),
    "put_many": lambda m, value: m.state.put_many({"a": 1, "order:1": value}),
    "create": lambda m, value: m.state.create("order:1", value),
    "compare_and_set": lambda m, value: m.state.compare_and_set(
        "order:1", value, expected_version=0
    ),
    "update": lambda m, value: m.state.update("order:1", lambda _: value),
}


def validate(memory, **options):
    getattr(memory, "wrapped", memory).validate(**options)


@pytest.mark.parametrize("write", WRITES)
async def test_every_write_is_checked(both, write):
    validate(both, prefix="order:", model=Order)
    with REFUSED:
        await WRITES[write](both, BAD)
    assert await both.state.list() == []
    await WRITES[write](both, GOOD)
    assert (await both.state.get("order:1")).value == GOOD  # as it was given


async def test_a_later_compare_and_set_is_checked(both):
    validate(both, prefix="order:", model=Order)
    entry = await both.state.put("order:1", GOOD)
    with REFUSED:
        await both.state.compare_and_set("order:1", BAD, expected_version=entry.version)
    with pytest.raises(VersionConflict):
        await both.state.compare_and_set("order:1", GOOD, expected_version=9)


@pytest.mark.parametrize("write", WRITES)
async def test_writes_in_transactions_are_checked(both, write):
    validate(both, prefix="order:", model=Order)
    with REFUSED:
        async with both.transaction() as tx:
            await tx.state.put("other", 1)
            await WRITES[write](tx, BAD)
    if write == "put":
        with REFUSED:
            async with both.optimistic() as tx:
                await WRITES[write](tx, BAD)
    assert await both.state.list() == []


async def test_views_are_checked(both):
    wrapped = getattr(both, "wrapped", both)
    view = wrapped.as_agent("researcher")
    view = view if wrapped is both else type(both)(view)
    validate(both, prefix="order:", model=Order)
    with REFUSED:
        await view.state.put("order:1", BAD)


async def test_only_keys_with_the_prefix_are_checked(both):
    validate(both, prefix="order:", model=Order)
    await both.state.put("order", BAD)
    await both.state.put("orders:1", BAD)


async def test_each_matching_prefix_counts_and_the_last_model_of_one(both):
    validate(both, prefix="", model=Order)
    validate(both, prefix="n", model=Positive)
    with pytest.raises(InvalidValue, match="Positive"):
        await both.state.put("n", GOOD)
    validate(both, prefix="", model=Positive)
    await both.state.put("n", 3)
    with pytest.raises(InvalidValue, match="does not fit Positive"):
        await both.state.put("n", -3)


async def test_an_increment_of_such_a_key_is_refused(both):
    validate(both, prefix="n:", model=Positive)
    with pytest.raises(InvalidInput, match=r"increment of state 'n:1' refused.*Use update"):
        await both.state.increment("n:1")
    await both.state.increment("m:1")


async def test_the_message_shows_no_value(both):
    validate(both, prefix="order:", model=Order)
    with pytest.raises(InvalidValue) as caught:
        await both.state.put("order:1", {"status": 4111_1111})
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "a", "model": dict}, {"prefix": "a", "model": Order(status="x")},
        {"prefix": 7, "model": Order}, {"prefix": "a\0", "model": Order},
    ],
)  # fmt: skip
async def test_bad_schemas_are_refused(both, options):
    with pytest.raises(InvalidInput):
        validate(both, **options)


async def test_a_bad_key_is_still_a_bad_key(both):
    validate(both, prefix="order:", model=Order)
    for key in (7, "", None):
        with pytest.raises(InvalidInput):
            await both.state.put(key, GOOD)
