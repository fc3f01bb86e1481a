"""Groups and deliveries refuse what is not allowed, with a typed error, before anything changes."""

from __future__ import annotations

import pytest

from pgmem.errors import InvalidInput
from tests.integration.core.test_bad_input import BAD_NAMES
from tests.support.groups import fill


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda n: repr(n)[:12])
async def test_names(both, name):
    await fill(both)
    group = await both.groups.create("g")
    calls = [
        lambda: both.groups.create(name),
        lambda: both.groups.get(name),
        lambda: both.groups.delete(name),
        lambda: group.read(name),
    ]
    if name is not None:
        calls += [
            lambda: both.groups.create("h", type=name),
            lambda: both.groups.create("h", ordered_by=name),
        ]
    for call in calls:
        with pytest.raises(InvalidInput):
            await call()
    assert [info.name for info in await both.groups.list()] == ["g"]


def wrong_openings(memory):
    return [
        lambda start=start: memory.groups.create("new", after=start)
        for start in (-1, "yesterday", True, 1.5, None, 2**63)
    ] + [
        lambda most=most: memory.groups.create("new", max_attempts=most)
        for most in (0, -1, True, 1.5, "5", 1_000_001)
    ]


def wrong_reads(group):
    return [
        lambda value=value, key=key: group.read("a", **{key: value})
        for key, values in {
            "limit": [0, -1, 1001, True, 1.5, "1", None],
            "lease": [0, -1, 86_401, float("nan"), "5", None],
            "timeout": [-1, float("inf"), "5"],
        }.items()
        for value in values
    ]


def wrong_endings(group, held, foreign):
    """Return calls that end deliveries of this group, or of another one."""
    return [
        lambda: group.nack(held, error=5),
        lambda: group.nack(held, error=ValueError("x")),
        lambda: group.nack(held, delay=-1),
        lambda: group.nack(held, delay="5"),
        lambda: held[0].dead_letter(5),
        lambda: held[0].extend(0),
        lambda: held[0].extend(86_401),
        lambda: group.extend([]),
        lambda: group.ack(foreign),
        lambda: group.nack(foreign),
        lambda: group.dead_letter(foreign),
        lambda: group.extend(foreign),
        lambda: group.read("a", ack=foreign),
        lambda: group.ack([*held, *foreign]),
        lambda: group.ack(held[0]),
        lambda: group.read("a", ack=held[0]),
        lambda: group.ack([1]),
        lambda: group.ack(7),
        lambda: group.ack(held, "tx"),
        lambda: held[0].ack(group),
    ]


def wrong_upkeep(group):
    """Return calls of an operator of the group."""
    return [
        lambda: group.pending(0),
        lambda: group.pending(100_001),
        lambda: group.dead_letters(limit=0),
        lambda: group.dead_letters(after=-1),
        lambda: group.requeue([0]),
        lambda: group.requeue(["1"]),
        lambda: group.requeue(1),
        lambda: group.reset(-1),
        lambda: group.reset("now"),
        lambda: group.reset(True),
    ]


async def test_options_are_refused_before_anything_changes(both):
    await fill(both)
    group = await both.groups.create("g")
    held = await group.read("a", 1)
    other = await both.groups.create("other")
    foreign = await other.read("a", 1)
    before = await both.groups.list()
    calls = [
        *wrong_openings(both),
        *wrong_reads(group),
        *wrong_endings(group, held, foreign),
        *wrong_upkeep(group),
    ]
    for number, call in enumerate(calls):
        try:
            await call()
        except InvalidInput:
            continue
        pytest.fail(f"call {number} was not refused")
    assert await both.groups.list() == before
    await group.ack(held)
