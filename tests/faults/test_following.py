"""Connections and sessions that break under a subscription: nothing missed, nothing twice."""

from __future__ import annotations

import logging
import os
import random
import signal
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
    wait_until,
    writing,
)
from tests.support.options import FORMS, SLOW_FORMS, size
from tests.support.relay import Relay


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


@pytest.fixture
def patience(monkeypatch):
    """How long the listener waits for an answer: as it is with --full, shorter without."""
    seconds = size(5, 1)
    for form in ("sync", "async"):
        monkeypatch.setattr(f"pgmem._{form}.listener.PATIENCE", float(seconds))
    return seconds


@SLOW_FORMS
def test_half_open_connection_is_given_up_and_nothing_is_lost(name, database_url, patience):
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
    assert delay <= patience + 2.5


@FORMS
@pytest.mark.thorough
def test_network_that_is_gone_for_a_while_is_waited_for(name, database_url, patience):
    """New connections are made, and get no answer either. The listener tries again in time,
    however long others may wait for a connection."""
    with Relay(database_url) as relay, writing(database_url, 2, pause=0.02) as writers:
        follower = Follower(name, relay.url, timeout=60)
        follower.wait(lambda: len(follower.got) > 20)
        relay.silence(new=True)
        time.sleep(patience + 1.5)
        relay.heal()
        moment = time.monotonic()
        follower.wait(lambda: follower.arrival_after(moment) is not None)
        delay = follower.arrival_after(moment) - moment
        writers.stop()
        follower.finish(database_url)
    print(f"network back: {delay:.1f} s")
    assert delay <= max(patience, 2) + 2.5


@SLOW_FORMS
def test_frozen_backend_of_the_listener_is_given_up(name, database_url, patience):
    """It is stopped while idle, so that it holds no lock of the server's."""
    follower = Follower(name, database_url)
    with psycopg.connect(database_url, autocommit=True) as admin:
        wait_until(lambda: listeners(admin))
        time.sleep(0.1)
        (frozen,) = listeners(admin)
        os.kill(frozen, signal.SIGSTOP)
        try:
            moment = time.monotonic()
            with writing(database_url, 2, pause=0.02) as writers:
                writers.wait_for(20, timeout=5)
                follower.wait(lambda: follower.arrival_after(moment) is not None)
                delay = follower.arrival_after(moment) - moment
            follower.finish(database_url)
        finally:
            os.kill(frozen, signal.SIGCONT)
    print(f"frozen backend: back after {delay:.1f} s")
    assert delay <= patience + 2.5


def worst(follower) -> tuple[float, float]:
    """The 99th percentile and the worst of the delays from append to delivery."""
    delays = [at - sent for _, sent, at in follower.got if sent]
    return percentile(delays, 0.99), max(delays)


def never_ring(memory) -> None:
    memory._database._channel = ""


POLL = 0.4
"""The safety poll of these tests: shorter than usual, so that they take less."""


@SLOW_FORMS
def test_without_any_bell_events_come_by_polling(name, database_url, caplog):
    """Plain INSERTs, at random times: each waits for the poll, none is lost; said once."""
    follower = Follower(name, database_url, safety_poll=POLL)
    with (
        caplog.at_level(logging.WARNING, "pgmem"),
        psycopg.connect(database_url, autocommit=True) as raw,
    ):
        for n in range(size(200, 20)):
            raw.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', %s)",
                [str(time.monotonic())],
            )
            # Now and then so long that the reader goes back to the safety poll.
            time.sleep(random.uniform(0, 3 * POLL) if n % 10 == 0 else 0.03)
        follower.wait(lambda: len(follower.got) >= n + 1)
        p99, most = worst(follower)
        # A bell heals it.
        with Memory(database_url) as ringing:
            for _ in range(5):
                moment = time.monotonic()
                ringing.events.append("s", Event(type="t", payload=moment))
                follower.wait(lambda m=moment: follower.got[-1][1] == m)
                time.sleep(0.05)
    healed = max(at - sent for _, sent, at in follower.got[-4:])
    follower.finish(database_url)
    print(f"no bell: p99 {p99:.3f} s, worst {most:.3f} s; with bells again {healed * 1000:.1f} ms")
    assert p99 <= POLL + 0.5
    assert healed < POLL / 2
    assert caplog.text.count("by polling only") == 1


def test_polling_is_not_said_where_bells_are_heard(database_url, caplog):
    with caplog.at_level(logging.WARNING, "pgmem"):
        follower = Follower("sync", database_url, safety_poll=0.1)
        with writing(database_url, 4, pause=0.001) as writers:
            writers.wait_for(300)
        follower.finish(database_url)
    assert "polling" not in caplog.text


@FORMS
def test_role_that_may_not_know_the_channel_follows_by_polling(name, database_url, caplog):
    role = f"reader_{conninfo_to_dict(database_url)['dbname']}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            migrate.grant(database_url, reader=role)
            with caplog.at_level(logging.WARNING, "pgmem"):
                follower = Follower(name, make_conninfo(database_url, user=role), safety_poll=POLL)
                with writing(database_url, 2, pause=0.05) as writers:
                    writers.wait_for(20)
                follower.finish(database_url)
            p99, _ = worst(follower)
            assert p99 <= POLL + 0.5
            assert caplog.text.count("by polling only") == 1
            assert "channel" in caplog.text
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
