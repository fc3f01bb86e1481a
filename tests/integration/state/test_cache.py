"""The read cache: what is served from a copy, and what is never kept.

`test_cache_races` has the races. Here the log is not followed: the tests set `fresh_until` and call
`observe`.
"""

from __future__ import annotations

import inspect
import math
import time
from functools import partial

import pytest
from pydantic import BaseModel

from pgmem import Memory
from pgmem.errors import InvalidInput, InvalidValue, NotOpen, OutcomeUnknown
from tests.support.cached import between, cache_of, change_behind, fresh, inner, value


@pytest.fixture
async def cached(form):
    async with fresh(form) as memory:
        yield memory


@pytest.fixture
def behind(database_url):
    """Return a function that changes the row of a key without an event."""
    return partial(change_behind, database_url)


@pytest.fixture
def rival(database_url):
    """Return another memory, as another process has it."""
    with Memory(database_url) as memory:
        yield memory


# hits


@pytest.mark.parametrize("filled_by", ["put", "get"])
async def test_a_copy_is_served_until_an_event_shows_a_newer_version(
    cached, rival, behind, filled_by
):
    source = rival if filled_by == "get" else inner(cached)
    written = source.state.put("k", "old")
    written = await written if inspect.isawaitable(written) else written
    first = await cached.state.get("k")
    behind()
    assert await cached.state.get("k") == first == written._replace(position=None)
    cache_of(cached).observe("k", 1)
    assert await value(cached) == "old"  # its own event
    cache_of(cached).observe("k", 2)
    assert (await cached.state.get("k"))[1:3] == ("behind", 2)


async def test_a_touch_in_another_process_removes_the_copy(cached, behind):
    await cached.state.put("k", "old")
    behind()
    cache_of(cached).observe("k", None)
    assert await value(cached) == "behind"


async def test_other_keys_keep_their_copies(cached, behind):
    await cached.state.put("k", "old")
    behind()
    cache_of(cached).observe("other", 9)
    assert await value(cached) == "old"


async def test_flush_removes_every_copy(cached, behind):
    await cached.state.put("k", "old")
    behind()
    cache_of(cached).flush()
    assert await value(cached) == "behind"
    assert len(cache_of(cached)) == 1


async def test_only_fresh_copies_are_served(cached, behind):
    await cached.state.put("k", "old")
    behind()
    cache = cache_of(cached)
    for fresh_until in (0.0, time.monotonic()):
        cache.fresh_until = fresh_until
        assert await value(cached) == "behind"
    await cached.state.put("k", "new")
    cache.fresh_until = math.inf
    behind()
    assert await value(cached) == "behind"  # What was written or read meanwhile was not kept.


async def test_values_are_not_shared(cached):
    given = {"n": [1]}
    await cached.state.put("k", given)
    given["n"].append(2)
    for _ in range(2):
        found = await value(cached)
        assert found == {"n": [1]}
        found["n"].append(3)


async def test_models_are_made_from_the_copy(cached, behind):
    class Account(BaseModel):
        balance: int

    await cached.state.put("k", Account(balance=5))
    await cached.state.put("text", "no account")
    behind(value='{"balance": 6}')
    first = await cached.state.get("k", model=Account)
    assert (await cached.state.get("k", model=Account)).value == first.value == Account(balance=5)
    assert await value(cached) == {"balance": 5}
    with pytest.raises(InvalidValue, match="Account"):
        await cached.state.get("text", model=Account)


async def test_null_is_a_value_and_no_entry_is_none(cached, behind, rival):
    await cached.state.put("k", None)
    behind()
    assert (await cached.state.get("k")).value is None
    assert await cached.state.get("missing") is None
    rival.state.create("missing", 1)
    assert await value(cached, "missing") == 1


async def test_least_recently_used_copies_go_first(form, behind):
    async with fresh(form, most=2) as memory:
        for key in "ab":
            await memory.state.put(key, "old")
        assert await value(memory, "a") == "old"
        await memory.state.put("c", "old")
        assert len(cache_of(memory)) == 2
        for key in "abc":
            behind(key)
        assert [await value(memory, key) for key in "ac"] == ["old", "old"]
        assert await value(memory, "b") == "behind"


# never kept


@pytest.mark.parametrize(
    "fill",
    [
        lambda state: state.put("k", "old", ttl=60),
        lambda state: state.create("k", "old", ttl=60),
        lambda state: state.put("k", "old", record=False),
        lambda state: state.update("k", lambda _: "old", record=False),
    ],
)
@pytest.mark.parametrize("read", [False, True])
async def test_entries_with_an_end_or_unrecorded_are_never_kept(cached, behind, fill, read):
    await fill(cached.state)
    assert not read or await value(cached) == "old"
    assert len(cache_of(cached)) == 0
    behind()
    assert await value(cached) == "behind"


async def test_an_entry_is_not_kept_if_its_next_change_may_be_unrecorded(cached, rival):
    rival.state.put("k", 1)
    rival.state.put("k", 2, record=False)  # in the log, but the next will not be
    assert await value(cached) == 2
    rival.state.put("k", 3, record=False)
    assert await value(cached) == 3


async def test_compare_and_set_that_keeps_an_end_is_not_kept(cached, behind):
    await cached.state.put("k", 1, ttl=60)
    await cached.state.compare_and_set("k", 2, expected_version=1)
    behind()
    assert await value(cached) == "behind"


# own writes


OWN = {
    "put": lambda state: state.put("k", "new"),
    "put with ttl": lambda state: state.put("k", "new", ttl=60),
    "put unrecorded": lambda state: state.put("k", "new", record=False),
    "compare_and_set": lambda state: state.compare_and_set("k", "new", expected_version=1),
    "update": lambda state: state.update("k", lambda _: "new"),
    "update unrecorded": lambda state: state.update("k", lambda _: "new", record=False),
    "delete": lambda state: state.delete("k"),
    "delete unrecorded": lambda state: state.delete("k", record=False),
    "touch": lambda state: state.touch("k", ttl=60),
    "refresh": lambda state: state.get("k", refresh=True),
}


@pytest.mark.parametrize("verb", OWN)
@pytest.mark.parametrize("still_fresh", [True, False])
async def test_own_writes_are_seen_at_once(cached, rival, verb, still_fresh):
    await cached.state.put("k", "old")
    if not still_fresh:
        cache_of(cached).fresh_until = 0.0
    await OWN[verb](cached.state)
    cache_of(cached).fresh_until = math.inf
    assert await cached.state.get("k") == rival.state.get("k")
    assert await cached.state.get("k") == rival.state.get("k")


async def test_own_create_is_seen_and_kept(cached, rival, behind):
    await cached.state.create("k", "new")
    assert await cached.state.get("k") == rival.state.get("k")
    behind()
    assert await value(cached) == "new"


async def test_update_never_reads_a_copy(cached, behind):
    """Otherwise a function could refuse an old value, with no conflict to correct it."""
    await cached.state.put("k", "old")
    behind()
    seen = []
    await cached.state.update("k", lambda current: seen.append(current) or "new")
    assert seen == ["behind"]


async def test_get_many_is_of_one_moment(cached, behind):
    await cached.state.put("k", "old")
    behind()
    assert (await cached.state.get_many(["k"]))["k"].value == "behind"


@pytest.mark.parametrize("failure", [OutcomeUnknown("lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("verb", OWN)
async def test_a_write_of_unknown_outcome_removes_the_copy(cached, rival, verb, failure):
    await cached.state.put("k", "old")

    def fail(_):
        raise failure

    between(cached, fail) if "update" not in verb else between(
        cached, lambda memory: between(memory, fail)
    )
    with pytest.raises(type(failure)):
        await OWN[verb](cached.state)
    assert await cached.state.get("k") == rival.state.get("k")


@pytest.mark.parametrize("bound", [False, True])
async def test_restoring_a_snapshot_is_seen_at_once(cached, bound):
    await cached.state.put("k", "kept")
    taken = await cached.state.snapshots.take()
    await cached.state.put("k", "other")
    await cached.state.put("gone", "other")
    if bound:
        async with cached.transaction() as tx:
            await tx.state.snapshots.restore(taken.id)
            assert await value(cached) == "other"  # A copy, again, of what is not yet restored.
    else:
        await cached.state.snapshots.restore(taken.id)
    assert (await value(cached), await value(cached, "gone")) == ("kept", None)


# the option


async def test_without_the_option_there_is_no_cache(both):
    assert cache_of(both) is None


@pytest.mark.parametrize("most", [0, -1, True, 1.5, "10"])
async def test_a_cache_without_a_size_is_refused(form, most):
    with pytest.raises(InvalidInput, match="cache"):
        async with form.memory(cache=most):
            pass


@pytest.mark.parametrize("key", [None, ["k"], 5, "", b"k"])
async def test_a_wrong_key_is_refused_as_without_a_cache(cached, key):
    await cached.state.put("k", 1)
    with pytest.raises(InvalidInput):
        await cached.state.get(key)


async def test_a_closed_memory_serves_nothing(form):
    async with fresh(form) as memory:
        await memory.state.put("k", 1)
    with pytest.raises(NotOpen):
        await memory.state.get("k")
