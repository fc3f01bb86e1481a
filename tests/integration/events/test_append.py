"""Appending: receipts, order, versions, idempotency keys."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Append, Appended, Event
from pgmem.errors import (
    IdempotencyMismatch,
    InvalidInput,
    InvalidValue,
    ValueTooLarge,
    VersionConflict,
)


def event(n: int = 0, **fields) -> Event:
    return Event(type="test", payload={"n": n}, **fields)


async def test_one_event_comes_back_as_it_was_given(both):
    given = Event(
        type="validated",
        payload={"amount": 1_500_000, "note": "một khoản", "rate": 0.1, "tags": [None, True, ""]},
        agent_id="validator",
        metadata={"trace": "abc"},
    )
    receipt = await both.events.append("payments", given)
    (found,) = await both.events.read("payments")
    assert receipt == Appended(found.position, None, False)
    assert (found.stream, found.type, found.payload, found.agent_id, found.metadata) == (
        "payments",
        given.type,
        given.payload,
        given.agent_id,
        given.metadata,
    )
    assert found.version is None
    assert found.change is None
    assert found.recorded_at.tzinfo is not None


async def test_the_memorys_agent_is_written_unless_the_event_names_one(both):
    await both.events.append("s", event())
    await both.events.append("s", [event(), event(agent_id="other")])
    assert [found.agent_id for found in await both.events.read("s")] == [
        "tester",
        "tester",
        "other",
    ]


async def test_many_events_keep_their_order(both):
    receipts = await both.events.append("s", [event(n) for n in range(500)])
    found = await both.events.read("s", limit=1000)
    assert [one.payload["n"] for one in found] == list(range(500))
    assert [one.position for one in found] == [receipt.position for receipt in receipts]


@pytest.mark.parametrize("payload", [None, True, 0, "", [], {}, {"null": None}])
async def test_falsy_payloads_come_back_alone_and_in_a_batch(both, payload):
    await both.events.append("s", Event(type="t", payload=payload))
    await both.events.append("s", [Event(type="t", payload=payload)] * 2)
    await both.events.append("s", Event(type="t", payload=payload), expected_version=0)
    await both.events.append("s", Event(type="t", payload=payload), idempotency_key="k")
    found = [one.payload for one in await both.events.read("s")]
    assert found == [payload] * 5
    assert [type(one) for one in found] == [type(payload)] * 5


async def test_versioned_stream_counts_its_events(both):
    first = await both.events.append("order-17", [event(1), event(2)], expected_version=0)
    second = await both.events.append("order-17", event(3), expected_version=2)
    assert [receipt.version for receipt in [*first, second]] == [1, 2, 3]
    assert [one.version for one in await both.events.read("order-17")] == [1, 2, 3]
    assert await both.events.version("order-17") == 3


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_wrong_expected_version_appends_nothing(both, expected):
    await both.events.append("s", [event(1), event(2)], expected_version=0)
    with pytest.raises(VersionConflict) as conflict:
        await both.events.append("s", [event(3), event(4)], expected_version=expected)
    assert (conflict.value.expected, conflict.value.actual) == (expected, 2)
    assert await both.events.count("s") == 2


async def test_a_refused_append_draws_no_position(both):
    first = await both.events.append("s", event(), expected_version=0, idempotency_key="k")
    for _ in range(3):
        with pytest.raises(VersionConflict):
            await both.events.append("s", event(), expected_version=0)
        await both.events.append("s", event(), expected_version=0, idempotency_key="k")
        with pytest.raises(IdempotencyMismatch):
            await both.events.append("s", event(1), idempotency_key="k")
    following = await both.events.append("s", event())
    assert following.position == first.position + 1


async def test_plain_appends_do_not_disturb_a_versioned_stream(both):
    await both.events.append("s", event(), expected_version=0)
    await both.events.append("s", event())
    assert (await both.events.append("s", event(), expected_version=1)).version == 2


async def test_same_idempotency_key_gives_the_first_receipt(both):
    first = await both.events.append("s", event(1), idempotency_key="k")
    again = await both.events.append("s", event(1, metadata={"try": 2}), idempotency_key="k")
    assert again == first._replace(duplicate=True)
    assert await both.events.count() == 1


async def test_same_key_for_a_batch_gives_every_first_receipt(both):
    events = [event(n) for n in range(20)]
    first = await both.events.append("s", events, idempotency_key="k", expected_version=0)
    again = await both.events.append("s", events, idempotency_key="k", expected_version=0)
    assert again == [receipt._replace(duplicate=True) for receipt in first]
    assert [receipt.version for receipt in again] == list(range(1, 21))
    assert await both.events.count() == 20


@pytest.mark.parametrize(
    "changed",
    [event(2), Event(type="another", payload={"n": 1}), [event(1), event(1)]],
)
async def test_same_key_with_other_content_is_refused(both, changed):
    await both.events.append("s", event(1), idempotency_key="k")
    with pytest.raises(IdempotencyMismatch, match="'k'"):
        await both.events.append("s", changed, idempotency_key="k")
    assert await both.events.count() == 1


async def test_an_idempotency_key_belongs_to_its_stream(both):
    appends = [("a", "b:c"), ("a:b", "c"), ("a", "c"), ("*", "c"), ("x" * 512, "k" * 512)]
    for again in (False, True):
        for stream, key in appends:
            receipt = await both.events.append(stream, event(1), idempotency_key=key)
            assert receipt.duplicate is again
        (several,) = await both.events.append_all([Append("*", event(1))], idempotency_key="c")
        assert several.duplicate is again
    assert await both.events.count() == len(appends) + 1


async def test_the_order_of_keys_in_a_payload_does_not_matter(both):
    await both.events.append("s", Event(type="t", payload={"a": 1, "b": 2}), idempotency_key="k")
    again = await both.events.append(
        "s", Event(type="t", payload={"b": 2, "a": 1}), idempotency_key="k"
    )
    assert again.duplicate


async def test_an_expired_key_can_be_used_again(both, database_url):
    await both.events.append("s", event(1), idempotency_key="k", ttl=3600)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE pgmem.dedupe SET expires_at = now() - interval '1 s'")
    receipt = await both.events.append("s", event(2), idempotency_key="k")
    assert not receipt.duplicate
    assert await both.events.count() == 2


async def test_appends_and_work_do_not_share_keys(both):
    await both.dedupe.run_once("k", lambda: 1)
    assert not (await both.events.append("s", event(), idempotency_key="k")).duplicate


async def test_a_version_conflict_leaves_the_key_unused(both):
    with pytest.raises(VersionConflict):
        await both.events.append("s", event(), idempotency_key="k", expected_version=5)
    receipt = await both.events.append("s", event(), idempotency_key="k", expected_version=0)
    assert receipt == Appended(receipt.position, 1, False)


async def test_order_of_a_batch_holds_up_to_the_largest(both):
    receipts = await both.events.append("s", [event(n) for n in range(10_000)])
    positions = [receipt.position for receipt in receipts]
    assert positions == sorted(positions)
    with pytest.raises(InvalidInput, match="10000"):
        await both.events.append("s", [event()] * 10_001)
    assert await both.events.count() == 10_000


@pytest.mark.parametrize("given", [{}, {"idempotency_key": "k"}, {"expected_version": 0}])
async def test_a_batch_keeps_each_field_of_each_event(both, given):
    batch = [
        Event(type="Überweisung", payload={"note": "một khoản", "n": 1}, agent_id="prüfer"),
        Event(type="t", payload="a\\u0000b"),  # a backslash, and no NUL
        Event(type="t", payload=None, metadata={"trace": "ü"}, agent_id="other"),
        Event(type="Überweisung", payload=[], metadata={}),
    ]
    await both.events.append("s", batch, **given)
    assert [
        (one.type, one.payload, one.agent_id, one.metadata) for one in await both.events.read("s")
    ] == [(one.type, one.payload, one.agent_id or "tester", one.metadata) for one in batch]


async def test_a_batch_joins_a_transaction_in_any_encoding(memory, database_url):
    batch = [Event(type="Zahlung für", payload={"note": "für"}, metadata={"é": "ß"}), event(2)]
    with psycopg.connect(database_url, client_encoding="latin1") as connection:
        bound = memory.using(connection)
        bound.events.append("s", batch)
        bound.events.append("s", batch, idempotency_key="schlüssel")
    found = memory.events.read("s")
    assert [one.payload for one in found] == [one.payload for one in batch] * 2
    assert [one.type for one in found] == [one.type for one in batch] * 2
    assert found[0].metadata == {"é": "ß"}


def wrong(**fields):
    return lambda good: [*good, Event(type="t", **fields), *good]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (wrong(payload={"a": (1,)}), InvalidValue, "payload: a tuple at"),
        (wrong(payload={"a": "\0"}), InvalidValue, "payload: .*NUL"),
        (wrong(payload="x" * 2_000_000), ValueTooLarge, "payload has 2000002 bytes"),
        (wrong(metadata={"a": float("nan")}), InvalidValue, "metadata: nan at"),
        (wrong(agent_id=""), InvalidInput, "agent_id is empty"),
        (lambda good: [*good, Event(type="t\0")], InvalidInput, "event type .* NUL"),
        (lambda good: [*good, Event.model_construct(type=["t"])], InvalidInput, "must be a str"),
        (lambda good: [*good, "event"], InvalidInput, "got str"),
    ],
)
async def test_one_wrong_event_in_a_batch_is_named_and_nothing_is_appended(both, make, error, said):
    with pytest.raises(error, match=said):
        await both.events.append("s", make([event(n) for n in range(3)]))
    assert await both.events.count() == 0


@pytest.mark.parametrize("stream", ["state:account:1", "state:"])
async def test_streams_of_state_are_reserved(both, stream):
    with pytest.raises(InvalidInput, match="reserved"):
        await both.events.append(stream, event())


async def test_typed_events_come_back_typed(form):
    class Validated(Event, type="payment.validated"):
        payment: str
        amount: int

    async with form.memory(events=[Validated]) as memory:
        given = Validated(payment="p-1", amount=5, agent_id="v", metadata={"a": 1})
        await memory.events.append("s", given)
        await memory.events.append("s", [given, event()])
        found = [one.payload for one in await memory.events.read("s")]
    assert found == [given, given, {"n": 0}]
    async with form.memory() as memory:
        (raw, *_) = await memory.events.read(type="payment.validated")
    assert (raw.type, raw.payload) == ("payment.validated", {"payment": "p-1", "amount": 5})
