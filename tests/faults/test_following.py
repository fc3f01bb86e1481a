"""Connections and sessions that break under a subscription: nothing missed, nothing twice."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgmem import Event, Memory, migrate
from tests.support.following import (
    Follower,
    listeners,
    percentile,
    positions,
    wait_until,
    writing,
)
from tests.support.options import full, size
from tests.support.relay import Relay

FORMS = pytest.mark.parametrize("name", ["sync", "async"])


def kill_listeners(admin) -> float:
    """End each listening session; tells when."""
    found = []
    wait_until(lambda: found.extend(listeners(admin)) or found, what="a listening session")
    moment = time.monotonic()
    for pid in found:
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    return moment


@FORMS
def test_killed_listener_costs_a_moment_and_no_event(name, database_url):
    follower = Follower(name, database_url)
    delays = []
    with (
        writing(database_url, 3),
        psycopg.connect(database_url, autocommit=True) as admin,
    ):
        for _ in range(size(50, 8)):
            moment = kill_listeners(admin)
            follower.wait(lambda m=moment: follower.arrival_after(m) is not None)
            delays.append(follower.arrival_after(moment) - moment)
            time.sleep(random.uniform(0, 0.1))
    follower.finish(database_url)
    print(f"kills {len(delays)}, p50 {percentile(delays, 0.5):.3f} s, worst {max(delays):.3f} s")
    assert percentile(delays, 0.99) <= 1.5


@FORMS
def test_half_open_connection_is_given_up_and_nothing_is_lost(name, database_url):
    """No RST, no FIN: what is sent just vanishes. New connections get through."""
    with Relay(database_url) as relay, writing(database_url, 2, pause=0.02) as writers:
        follower = Follower(name, relay.url)
        follower.wait(lambda: len(follower.got) > 20)
        relay.silence()
        moment = time.monotonic()
        writers.wait_for(20, timeout=5)
        follower.wait(lambda: follower.arrival_after(moment) is not None)
        delay = follower.arrival_after(moment) - moment
        writers.stop()
        follower.finish(database_url)
    print(f"half-open: back after {delay:.1f} s")
    assert delay <= 8
