"""Kill members of a group at random: no event is lost, and no two live members share one."""

from __future__ import annotations

import random

import psycopg
import pytest

from pgmem import Event, Memory
from tests.support.members import TABLE, audit, work_under_kills
from tests.support.options import size
from tests.support.processes import seed

pytestmark = pytest.mark.sized

LEASE = 1.0


def fill(url, rng, events, keys=1):
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(TABLE)
    with Memory(url) as memory:
        for first in range(0, events, 1000):
            memory.events.append(
                "work",
                [
                    Event(type="job", payload={"n": n, "key": f"k{rng.randrange(keys)}"})
                    for n in range(first, min(first + 1000, events))
                ],
            )


def test_every_event_is_acknowledged_and_no_two_live_holders_have_it(database_url):
    rng, events = random.Random(seed()), size(20_000, 1_500)
    fill(database_url, rng, events)
    kills = work_under_kills(database_url, rng, kills=size(200, 12), lease=LEASE)
    found = audit(database_url, events)
    assert kills >= size(200, 5), "too few kills to show anything"
    assert found.again > 0, "nothing was taken over"
    assert found.passed_over <= size(24, 12), "members claimed new events before expired ones"


def test_by_key_in_order_and_with_one_member_at_a_time(database_url):
    rng, events = random.Random(seed()), size(20_000, 1_500)
    fill(database_url, rng, events, keys=40)
    kills = size(200, 12)
    work_under_kills(database_url, rng, kills=kills, lease=LEASE, how="transaction", order="key")
    audit(database_url, events, ordered=True)


def test_acknowledged_in_the_callers_transaction_each_effect_is_there_once(database_url):
    rng, events = random.Random(seed()), size(20_000, 1_500)
    fill(database_url, rng, events)
    work_under_kills(database_url, rng, kills=size(200, 12), lease=LEASE, how="transaction")
    audit(database_url, events)
    with psycopg.connect(database_url) as server:
        counted = server.execute("SELECT count(*), count(DISTINCT position) FROM effects")
        assert counted.fetchone() == (events, events)
