"""`pgmem history`: accept the present history after a move to another cluster."""

from __future__ import annotations

import json

import pytest

from pgmem import AsyncMemory, Event
from pgmem.admin.histories import accept, show
from pgmem.errors import Conflict, HistoryRewritten
from tests.support.commands import run
from tests.support.database import sql

OTHER = 4711


@pytest.fixture
async def moved(database_url):
    """A subscription and a group whose rows came from another cluster."""
    async with AsyncMemory(database_url) as memory:
        await memory.events.append("s", [Event(type="t", payload=n) for n in range(6)])
        async with memory.events.subscribe(durable="billing") as reader:
            await reader.commit((await reader.receive(2))[-1])
        group = await memory.groups.create("g")
        await group.read("a", 2)
    for table in ("subscriptions", "groups"):
        sql(database_url, f"UPDATE pgmem.{table} SET system_identifier = {OTHER}")
    return database_url


async def test_positions_of_another_cluster_go_on_once_they_are_accepted(moved):
    async with AsyncMemory(moved) as memory:
        group = await memory.groups.get("g")
        with pytest.raises(HistoryRewritten):
            await group.read("b")
        report = show(moved)
        assert [(one.kind, one.name, one.position) for one in report.foreign] == [
            ("group", "g", 2),
            ("subscription", "billing", 2),
        ]
        assert report.problems == ()
        assert accept(moved) == ()
        assert accept(moved, from_cluster=OTHER, dry_run=True) == report.foreign
        assert show(moved).foreign == report.foreign
        assert accept(moved, from_cluster=OTHER) == report.foreign
        assert show(moved).foreign == ()
        # What member a holds stays held.
        assert [one.event.position for one in await group.read("b")] == [3, 4, 5, 6]
        async with memory.events.subscribe(durable="billing") as reader:
            assert [event.position for event in await reader.receive(timeout=5)] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("UPDATE pgmem.subscriptions SET position = 7", "'billing' is at position 7, .* is 6"),
        ("UPDATE pgmem.batches SET positions = '{1,9}'", "open event at position 9"),
        ("SELECT setval('pgmem.events_position_seq', 3)", "run `pgmem migrate sync-sequences`"),
    ],
)
async def test_positions_that_do_not_fit_the_log_are_not_accepted(moved, fault, problem):
    sql(moved, fault)
    before = show(moved).foreign
    with pytest.raises(Conflict, match=problem):
        accept(moved, from_cluster=OTHER)
    assert show(moved).foreign == before


async def test_the_command_shows_and_accepts(capfd, moved):
    options = ["--url", moved, "--json"]
    _, out, _ = run(capfd, ["history", "show", *options])
    assert [one["name"] for one in json.loads(out)["foreign"]] == ["g", "billing"]
    command = ["history", "accept", "--from-cluster", str(OTHER)]
    _, out, _ = run(capfd, [*command, "--dry-run", *options])
    assert (len(json.loads(out)["accepted"]), json.loads(out)["dry_run"]) == (2, True)
    code, out, _ = run(capfd, [*command, "--yes", *options])
    assert (code, len(json.loads(out)["accepted"])) == (0, 2)
    assert run(capfd, ["history", "accept", "--url", moved])[1] == "nothing to accept\n"
