"""The read cache among reads, writes, events and transactions that cross: no copy stays old."""

from __future__ import annotations

import math
import random
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest

from pgmem import Memory
from pgmem.core.concurrency import maybe_await
from pgmem.errors import OutcomeUnknown
from pgmem.state.cache import StateCache
from pgmem.state.models import Copy
from tests.support.both import execute, is_async
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


def kept(memory):
    return len(cache_of(memory))


def under_way(memory):
    return cache_of(memory)._loads


# a read crosses


@pytest.mark.parametrize("version", [2, None])
async def test_a_read_that_an_event_overtakes_is_not_kept(cached, rival, version):
    # No copy exists when the event arrives, only the load that is under way.
    rival.state.put("k", "old")

    def event(memory):
        rival.state.put("k", "new")
        memory._cache.observe("k", version)

    between(cached, event)
    assert await value(cached) == "old"
    assert kept(cached) == 0
    assert await value(cached) == "new"


async def test_a_read_that_saw_what_the_event_tells_is_kept(cached, rival, behind):
    rival.state.put("k", "new")
    between(cached, lambda memory: memory._cache.observe("k", 1))
    assert await value(cached) == "new"
    behind()
    assert await value(cached) == "new"


async def test_a_read_of_another_key_is_kept(cached, rival):
    rival.state.put("k", "old")
    between(cached, lambda memory: memory._cache.observe("other", 5))
    assert await value(cached) == "old"
    assert kept(cached) == 1


async def test_a_read_that_a_flush_overtakes_is_not_kept(cached, rival):
    rival.state.put("k", "old")
    between(cached, lambda memory: memory._cache.flush())
    assert await value(cached) == "old"
    assert kept(cached) == 0


async def test_a_read_that_began_while_the_log_was_not_followed_is_not_kept(cached, rival):
    rival.state.put("k", "old")
    cache_of(cached).fresh_until = 0.0
    between(cached, lambda memory: setattr(memory._cache, "fresh_until", math.inf))
    assert await value(cached) == "old"
    assert kept(cached) == 0


async def test_a_read_never_replaces_an_own_write(cached, rival):
    rival.state.put("k", "old")
    between(cached, lambda memory: memory.state.put("k", "new"))
    assert await value(cached) == "old"
    assert await value(cached) == "new"


async def test_a_read_never_follows_an_own_write_that_is_not_kept(cached, rival):
    rival.state.put("k", "old")
    between(cached, lambda memory: memory.state.put("k", "new", record=False))
    assert await value(cached) == "old"
    assert await value(cached) == "new"


async def test_a_read_never_follows_an_own_write_after_its_copy_was_evicted(form, rival):
    # The cache has room for one, so the write's copy is gone when the older read ends.
    rival.state.put("k", "old")
    rival.state.put("other", 1)
    async with fresh(form, most=1) as memory:

        async def write_async(opened):
            await opened.state.put("k", "new")
            await opened.state.get("other")

        def write_sync(opened):
            opened.state.put("k", "new")
            opened.state.get("other")

        between(memory, write_async if form.name == "async" else write_sync)
        assert await value(memory) == "old"
        assert await value(memory) == "new"


async def test_a_read_never_replaces_what_a_later_read_kept(cached, rival):
    rival.state.put("k", "old")

    def later(memory):
        rival.state.put("k", "new")
        return memory.state.get("k")

    between(cached, later)
    assert await value(cached) == "old"
    assert await value(cached) == "new"


async def test_nothing_is_under_way_at_the_end(cached, rival):
    rival.state.put("k", "old")
    await cached.state.get("k")
    await cached.state.get("missing")
    await cached.state.put("k", 1)
    await cached.state.delete("k")

    def fail(_):
        raise OutcomeUnknown("lost")

    for verb in (lambda: cached.state.get("k"), lambda: cached.state.put("k", 2)):
        between(cached, fail)
        with pytest.raises(OutcomeUnknown):
            await verb()
    assert under_way(cached) == {}


# a write crosses


async def test_a_write_that_a_newer_event_overtakes_is_not_kept(cached, rival):
    def event(memory):
        rival.state.put("k", "newer")
        memory._cache.observe("k", 2)

    between(cached, event)
    await cached.state.put("k", "own")
    assert await value(cached) == "newer"


async def test_a_write_is_kept_if_its_own_event_came_first(cached, behind):
    between(cached, lambda memory: memory._cache.observe("k", 1))
    await cached.state.put("k", "own")
    behind()
    assert await value(cached) == "own"


async def test_of_two_own_writes_the_newer_stays(cached, behind):
    # The first write is answered after the second.
    between(cached, lambda memory: memory.state.put("k", "second"))
    await cached.state.put("k", "first")
    behind()
    assert await value(cached) == "second"


# transactions


async def test_a_transaction_reads_and_keeps_no_copies(cached, behind):
    await cached.state.put("k", "old")
    await cached.state.put("other", "old")
    behind()
    async with cached.transaction() as tx:
        assert await value(tx) == "behind"
        assert await value(tx, "other") == "old"
    assert await value(cached) == "old"


WRITES = {
    "put": lambda state: state.put("k", "new"),
    "update": lambda state: state.update("k", lambda _: "new"),
    "delete": lambda state: state.delete("k"),
    "touch": lambda state: state.touch("k", ttl=60),
    "refresh": lambda state: state.get("k", refresh=True),
}


@pytest.mark.parametrize("verb", WRITES)
async def test_what_a_transaction_wrote_is_seen_once_it_committed(cached, rival, verb):
    await cached.state.put("k", "old")
    async with cached.transaction() as tx:
        await WRITES[verb](tx.state)
        assert await value(cached) == "old"  # A copy again, of what is true until the commit.
        assert kept(cached) == 1
    assert await cached.state.get("k") == rival.state.get("k")


async def test_a_read_that_a_commit_overtakes_is_not_kept(cached):
    await cached.state.put("k", "old")
    cache_of(cached).flush()
    block = cached.transaction()
    tx = await block.__aenter__()
    await tx.state.put("k", "new")

    async def commit_async(_):
        await block.__aexit__(None, None, None)

    def commit_sync(_):
        with pytest.raises(StopIteration):
            block.__aexit__(None, None, None).send(None)

    between(cached, commit_async if is_async(tx.connection) else commit_sync)
    assert await value(cached) == "old"
    assert await value(cached) == "new"


async def test_what_was_rolled_back_was_never_kept(cached):
    await cached.state.put("k", "old")

    async def fail():
        async with cached.transaction() as tx:
            await tx.state.put("k", "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await value(cached) == "old"


async def test_a_commit_of_unknown_outcome_removes_the_copies(cached, behind):
    # The connection is lost during the commit, which took effect.
    await cached.state.put("k", "old")

    async def lose():
        async with cached.transaction() as tx:
            await tx.state.put("k", "new")
            assert await value(cached) == "old"
            pid = tx.connection.info.backend_pid
            async with cached.transaction() as other:
                await execute(other.connection, "SELECT pg_terminate_backend(%s, 5000)", [pid])

    with pytest.raises(OutcomeUnknown):
        await lose()
    behind()
    assert await value(cached) == "behind"


async def test_writes_of_the_callers_own_transaction_arrive_with_the_log(cached, database_url):
    await cached.state.put("k", "old")
    kind = psycopg.AsyncConnection if inner(cached) is cached else psycopg.Connection
    connection = await maybe_await(kind.connect(database_url))
    bound = cached.using(connection)
    await bound.state.put("k", "new")
    assert kept(cached) == 0
    assert (await value(bound), await value(cached)) == ("new", "old")
    await maybe_await(connection.commit())
    assert await value(cached) == "old"
    cache_of(cached).observe("k", 2)
    assert await value(cached) == "new"
    await maybe_await(connection.close())


# threads


def test_an_event_waits_until_what_it_voids_is_stored():
    """Between the check of a load and its copy's arrival no event gets through unseen."""
    events = []

    class Meanwhile(OrderedDict):
        def __setitem__(self, key, copy):
            events.append(threading.Thread(target=cache.observe, args=(key, 2)))
            events[0].start()
            events[0].join(0.2)
            super().__setitem__(key, copy)

    cache = StateCache(1)
    cache.fresh_until = math.inf
    cache._copies = Meanwhile()
    with cache.loading("k") as load:
        load.keep(Copy(1, '"old"', datetime.now(UTC), datetime.now(UTC)))
    events[0].join()
    assert cache.lookup("k") is None


def at_once(works, keys, *, seconds):
    """Do each work in its own thread, on keys by chance, for a while; gives what they raised."""
    stop = threading.Event()
    failures = []

    def guarded(work, seed):
        choose = random.Random(seed)
        try:
            while not stop.is_set():
                work(choose, choose.choice(keys))
        except BaseException as failure:  # The caller gets it.
            failures.append(failure)
            stop.set()

    workers = [
        threading.Thread(target=guarded, args=(work, seed)) for seed, work in enumerate(works)
    ]
    for thread in workers:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in workers:
        thread.join()
    return failures


def test_every_copy_is_right_after_all_events_arrived(database_url):
    # Threads and another process write while the log is followed slowly; at rest all agree.
    keys = [f"k{n}" for n in range(4)]
    written = threading.Event()

    with Memory(database_url, cache=3) as memory, Memory(database_url) as rival:
        memory._cache.fresh_until = math.inf

        def follow(after):
            for event in rival.events.read(after=after):
                after = event.position
                change = event.change
                memory._cache.observe(change.key, change.version)
            return after

        def feed():
            after = 0
            while not written.is_set():
                after = follow(after)
            while (reached := follow(after)) != after:
                after = reached

        def read(choose, key):
            memory.state.get(key)

        def write(choose, key):
            own = memory.state.put(key, choose.random(), record=choose.random() < 0.8)
            seen = memory.state.get(key)
            assert seen.version > own.version or seen[:3] == own[:3]

        def interfere(choose, key):
            choose.choice([rival.state.put, rival.state.put, write_unrecorded])(key, 1)

        def write_unrecorded(key, _):
            rival.state.put(key, 2, record=False)

        follower = threading.Thread(target=feed)
        follower.start()
        failures = at_once([read, read, write, write, interfere], keys, seconds=1.5)
        written.set()
        follower.join()
        assert failures == []
        assert [memory.state.get(key) for key in keys] == [rival.state.get(key) for key in keys]
        assert memory._cache._loads == {}
