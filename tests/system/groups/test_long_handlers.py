"""Four members, 200 events, handlers of 5 to 40 s by a test clock, with default settings."""

from __future__ import annotations

from collections import Counter

import pytest

from pgmem import Memory
from tests.support.options import FORMS
from tests.support.simulated import Simulation, fill

pytestmark = pytest.mark.both_forms  # renewal beside a handler is a thread, or a task

MEMBERS, EVENTS = 4, 200
POISON, INVALID = 13, 77


@FORMS
def test_each_event_is_handled_once(database_url, tmp_path, name):
    fill(database_url, EVENTS)
    run = Simulation(database_url, name, tmp_path, members=MEMBERS)
    run.run()
    assert run.begun == run.handled == Counter(range(EVENTS))
    assert [sum(counts) for counts in zip(*run.results, strict=True)] == [EVENTS, 0, 0]
    assert run.seconds > EVENTS * 5 / MEMBERS
    with Memory(database_url) as memory:
        assert memory.groups.get("g").info().dead_letters == 0


@FORMS
def test_only_the_events_that_kill_or_do_not_decode_are_dead_letters_17(
    database_url, tmp_path, name
):
    fill(database_url, EVENTS, INVALID)
    run = Simulation(database_url, name, tmp_path, members=MEMBERS, poison=POISON)
    run.run()
    others = Counter(set(range(EVENTS)) - {POISON, INVALID})
    assert run.handled == others
    assert run.begun == others + Counter({POISON: run.kills})
    with Memory(database_url) as memory:
        killer, invalid = memory.groups.get("g").dead_letters()
    assert (killer.position, killer.attempts, run.kills) == (POISON + 1, 5, 5)
    assert (invalid.position, invalid.attempts) == (INVALID + 1, 0)
    assert invalid.event.payload == {"n": "none"}
    assert "field n" in invalid.error
