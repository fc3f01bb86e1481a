"""`SharedMemoryLayer` does work once, and updates with versions."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pgmem import Memory
from pgmem.errors import CallbackFailed, InvalidInput, InvalidValue, VersionConflict
from pgmem.redis import ConcurrentModificationError
from tests.system.redis.layers import Layers

SKIPPED = {"status": "skipped", "reason": "already_processed"}


# Work


async def test_work_is_done_once_and_its_result_is_the_works_own(layers):
    done, result = [], object()
    async with layers.open(work=lambda event: done.append(event) or result) as layer:
        event = {"id": "e-1", "amount": 5}
        assert await layer.process_event(event) is result
        assert await layer.process_event(event) == SKIPPED
        assert await layer.process_event({"id": "e-2"}) is result
    assert done == [event, {"id": "e-2"}]
    async with layers.open(work=lambda event: "again") as another:
        assert await another.process_event(event) == SKIPPED


async def test_an_id_is_the_same_in_whichever_way_a_client_would_send_it(layers):
    async with layers.open(work=lambda event: "done") as layer:
        assert await layer.process_event({"id": 7}) == "done"
        for same in ("7", b"7"):
            assert await layer.process_event({"id": same}) == SKIPPED
        await layer.write_event("a", "t", 1)
        ((_, ((identity, _),)),) = await layer.read_events()
        assert await layer.process_event({"id": identity}) == "done"
        assert await layer.process_event({"id": identity.decode()}) == SKIPPED


@pytest.mark.parametrize(
    "event", [{}, None, [], "e-1", {"id": None}, {"id": ""}, {"id": b"\xff"}, {"id": True}]
)
async def test_an_event_without_a_name_is_refused(layers, event):
    async with layers.open(work=lambda event: pytest.fail("worked")) as layer:
        with pytest.raises(InvalidInput, match="id"):
            await layer.process_event(event)


async def test_a_layer_without_work_raises_and_records_nothing(layers, layer):
    with pytest.raises(InvalidInput, match="_do_actual_work"):
        await layer.process_event({"id": "e"})
    async with layers.open(work=lambda event: "done") as able:
        assert await able.process_event({"id": "e"}) == "done"


async def test_an_error_of_the_work_comes_as_it_is_and_the_work_is_free(layers):
    class Declined(Exception):
        pass

    errors = [
        Declined("no"),
        CallbackFailed("the work's own"),
        VersionConflict("x", expected=1, actual=2),
    ]

    def work(event):
        if errors:
            raise errors[0] from KeyError("why")
        return "done"

    async with layers.open(work=work) as layer:
        while errors:
            with pytest.raises(type(errors[0])) as caught:
                await layer.process_event({"id": "e"})
            assert caught.value is errors.pop(0)
            assert isinstance(caught.value.__cause__, KeyError)
        assert await layer.process_event({"id": "e"}) == "done"


async def test_racers_work_once_and_the_others_wait_for_the_end(layers):
    runs = []

    def work(event):
        runs.append(1)
        if len(runs) == 1:
            raise ZeroDivisionError  # the next one does it
        return "done"

    async with layers.open(work=work) as layer:
        results = await asyncio.gather(
            *(layer.process_event({"id": "e"}) for _ in range(8)), return_exceptions=True
        )
    failed = [result for result in results if isinstance(result, ZeroDivisionError)]
    assert (len(failed), results.count("done"), results.count(SKIPPED)) == (1, 1, 6)
    assert len(runs) == 2


async def test_a_waiting_caller_does_the_work_of_a_dead_process(layers, memory):
    memory.dedupe.claim("processed:events:e", lease=0.3)  # and is never heard of again
    async with layers.open(work=lambda event: "done", lease=1) as layer:
        assert await layer.process_event({"id": "e"}) == "done"


async def test_done_is_known_for_ever_or_as_long_as_was_said(layers):
    async with (
        layers.open(work=lambda event: "done") as always,
        layers.open(work=lambda event: "done", processed_ttl=timedelta(milliseconds=1)) as briefly,
    ):
        for layer, name in ((always, "a"), (briefly, "b")):
            assert await layer.process_event({"id": name}) == "done"
        await asyncio.sleep(0.01)
        assert await always.process_event({"id": "a"}) == SKIPPED
        assert await briefly.process_event({"id": "b"}) == "done"


# Versions


async def test_fields_are_those_of_a_redis_hash(layer):
    seen = []

    def change(current):
        seen.append(dict(current))
        return {"n": 1, "f": 0.5, b"raw": b"x", "text": "Hà"}

    changed = await layer.update_with_version("r", change)
    assert changed == {"n": 1, "f": 0.5, b"raw": b"x", "text": "Hà", "version": 1}
    await layer.update_with_version("r", change)
    fields = {b"n": b"1", b"f": b"0.5", b"raw": b"x", b"text": "Hà".encode(), b"version": b"1"}
    assert seen == [{}, fields]


async def test_fields_that_are_not_given_stay(layer):
    await layer.update_with_version("r", lambda current: {"kept": 1, "changed": 1})
    await layer.update_with_version("r", lambda current: {"changed": 2})

    def add(current):
        current[b"changed"] = int(current[b"changed"]) + 1
        return current

    changed = await layer.update_with_version("r", add)
    assert changed == {b"kept": b"1", b"changed": 3, b"version": b"2", "version": 3}
    seen = []
    await layer.update_with_version("r", lambda current: seen.append(dict(current)) or {})
    assert seen == [{b"kept": b"1", b"changed": b"3", b"version": b"3"}]


async def test_versions_go_on_where_an_import_brought_them(layers, layer):
    with Memory(layers.url) as memory:
        memory.state.put("resource:r", {"balance": "100", "version": "17"})
        memory.state.put("resource:s", {"balance": 100, "rate": 0.5})
    changed = await layer.update_with_version(
        "r", lambda current: {"balance": int(current[b"balance"]) - 30}
    )
    assert changed == {"balance": 70, "version": 18}
    seen = []
    await layer.update_with_version("s", lambda current: seen.append(dict(current)) or {})
    assert seen == [{b"balance": b"100", b"rate": b"0.5"}]
    with Memory(layers.url) as memory:
        assert memory.state.get("resource:r").value == {"balance": "70", "version": "18"}


@pytest.mark.parametrize(
    "given",
    [None, [], {"a": None}, {"a": True}, {"a": [1]}, {"a": b"\xff"}, {None: 1}, {b"\xff": 1}],
)
async def test_what_a_hash_cannot_hold_is_refused_and_nothing_is_written(layers, layer, given):
    with pytest.raises(InvalidValue, match="'r'"):
        await layer.update_with_version("r", lambda current: given)
    with Memory(layers.url) as memory:
        assert memory.state.list() == []


@pytest.mark.parametrize("value", [5, "text", {"tags": ["secret"]}, {"version": "secret"}])
async def test_an_entry_that_is_no_hash_is_refused_and_not_repeated(layers, layer, value):
    with Memory(layers.url) as memory:
        memory.state.put("resource:r", value)
        with pytest.raises(InvalidValue, match="'r'") as error:
            await layer.update_with_version("r", lambda current: {"a": 1})
        assert "secret" not in str(error.value)
        assert memory.state.get("resource:r").value == value


async def test_an_error_of_the_function_comes_as_it_is(layer):
    error = ZeroDivisionError("no")

    def fail(current):
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        await layer.update_with_version("r", fail)
    assert caught.value is error


async def test_losing_every_try_raises_concurrent_modification_error(layers, layer):
    async with layers.open() as other:
        plain = Memory(layers.url).open()

        def interfere(current):
            plain.state.put("resource:r", {"n": "theirs", "version": "9"})
            return {"n": "mine"}

        with pytest.raises(ConcurrentModificationError, match="conflict in 1 of 1 tries") as lost:
            await layer.update_with_version("r", interfere, max_retries=1)
        assert isinstance(lost.value, VersionConflict)
        assert (lost.value.expected, lost.value.actual) == (0, 1)
        assert lost.value.current.value == {"n": "theirs", "version": "9"}
        plain.close()
        assert (await other.update_with_version("r", lambda current: {}))["version"] == 10


@pytest.mark.parametrize("number", [0, -1, None, 1.5])
async def test_tries_that_are_none_are_refused(layer, number):
    with pytest.raises(InvalidInput, match="max_retries"):
        await layer.update_with_version("r", lambda current: {}, max_retries=number)


async def test_racers_lose_no_update_and_none_gives_up(layers, layer):
    """Race with three tries, as the published code has. The last one queues."""

    async def count(_):
        for _ in range(10):
            await layer.update_with_version(
                "r", lambda current: {"n": int(current.get(b"n", 0)) + 1}
            )

    await asyncio.gather(*map(count, range(8)))
    changed = await layer.update_with_version("r", lambda current: current)
    assert (changed[b"n"], changed["version"]) == (b"80", 81)


async def test_functions_of_the_asynchronous_form_may_be_awaited(database_url):
    layers = Layers("async", database_url)

    async def work(event):
        await asyncio.sleep(0)
        return "done"

    async with layers.open(work=work) as layer:
        assert await layer.process_event({"id": "e"}) == "done"
        assert await layer.update_with_version("r", work_on) == {"n": 1, "version": 1}


async def work_on(current):
    await asyncio.sleep(0)
    return {"n": 1}


async def test_functions_of_the_synchronous_form_may_not(database_url):
    async with Layers("sync", database_url).open(work=work_on) as layer:
        with pytest.raises(InvalidInput, match="async"):
            await layer.process_event({"id": "e"})
        with pytest.raises(InvalidInput, match="async"):
            await layer.update_with_version("r", work_on)
