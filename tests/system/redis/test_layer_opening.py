"""`SharedMemoryLayer` takes a URL or a memory, and connects at first use."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from pgmem import migrate
from pgmem.errors import InvalidInput, NotOpen, PgmemError, SchemaError
from tests.system.redis.layers import Awaited, Layers

SOON = 20


async def test_a_memory_that_was_given_stays_open(layers):
    memory = layers.memory(layers.url, pool=2)
    with pytest.raises(NotOpen):
        await layers.new(memory).get_latest_state("a", "t")
    opened = memory.open()
    if layers.name == "async":
        await opened
    async with layers.open(memory) as layer:
        await layer.write_event("a", "t", 1)
        assert layer.memory is memory
    assert await layers.new(memory).get_latest_state("a", "t") == 1
    closed = memory.close()
    if layers.name == "async":
        await closed


async def test_a_url_is_connected_to_when_it_is_needed(layers):
    layer = layers.new("postgresql://127.0.0.1:1/nothing")
    await layer.close()
    layer = layers.new()
    await layer.write_event("a", "t", 1)
    await layer.close()
    await layer.close()
    with pytest.raises(NotOpen):
        await layer.get_latest_state("a", "t")


async def test_a_url_can_come_from_the_environment(layers, monkeypatch):
    monkeypatch.setenv("PGMEM_DATABASE_URL", layers.url)
    layer = Awaited(layers.layer())
    await layer.write_event("a", "t", 1)
    assert await layer.get_latest_state("a", "t") == 1
    await layer.close()


async def test_what_cannot_be_opened_may_be_later(layers, make_database):
    url = make_database()
    async with layers.open(url) as layer:
        for _ in range(2):
            with pytest.raises(SchemaError, match="pgmem migrate"):
                await layer.get_latest_state("a", "t")
        migrate.upgrade(url)
        assert await layer.get_latest_state("a", "t") == {}


@pytest.mark.parametrize("what", [5, object(), "redis://localhost:6379/0"])
async def test_what_is_no_database_is_refused(layers, what):
    with pytest.raises(InvalidInput, match="PostgreSQL"):
        layers.layer(what)


async def test_a_memory_of_the_other_form_is_refused(layers):
    other = Layers("sync" if layers.name == "async" else "async", layers.url)
    with pytest.raises(InvalidInput, match=layers.memory.__name__):
        layers.layer(other.memory(layers.url))


@pytest.mark.parametrize("options", [{"lease": 0}, {"lease": "1"}, {"processed_ttl": -1}])
async def test_options_that_cannot_be_are_refused(layers, options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        layers.new(**options)


async def test_calls_that_come_together_open_it_once(layers, layer):
    found = await asyncio.gather(*(layer.get_latest_state("a", "t") for _ in range(8)))
    assert found == [{}] * 8


async def test_a_block_opens_and_closes_it(layers):
    layer = layers.layer(layers.url)
    if layers.name == "async":
        async with layer as entered:
            assert entered is layer
            await layer.write_event("a", "t", 1)
    else:
        with layer as entered:
            assert entered is layer
            layer.write_event("a", "t", 1)
    with pytest.raises(PgmemError):
        await Awaited(layer).get_latest_state("a", "t")


def test_a_program_that_never_closes_it_ends(database_url):
    """Run a program that never closes its layer, as the published class needs none."""
    program = (
        "import sys; from pgmem.redis import SharedMemoryLayer as S; s = S(sys.argv[1]); "
        "s.write_event('a', 't', 1); print(len(s.read_events()[0][1]))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, database_url],
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("1\n", "", 0)
