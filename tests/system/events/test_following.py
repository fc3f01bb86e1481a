"""Connections and sessions that break under a subscription: nothing missed, nothing twice."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgmem import Event, Memory, migrate
from tests.support.both import module_name
from tests.support.following import LISTENER, Follower, listeners, percentile, positions, writing
from tests.support.options import FORMS, SIZED_FORMS, SIZED_SLOW_FORMS, size
from tests.support.relay import Relay
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until


def kill_listeners(admin) -> float:
    """End each listening session; tells when."""
    found = []
    wait_until(lambda: found.extend(listeners(admin)) or found, what="a listening session")
    moment = time.monotonic()
    for pid in found:
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    return moment


@SIZED_FORMS
def test_a_killed_listener_loses_no_event(name, database_url):
    follower = Follower(name, database_url)
    delays = []
    with (
        Stalls() as stalls,
        writing(database_url, 3),
        psycopg.connect(database_url, autocommit=True) as admin,
    ):
        for _ in range(size(50, 8, name)):
            moment = kill_listeners(admin)
            follower.wait(lambda m=moment: follower.arrival_after(m) is not None)
            delays.append(follower.arrival_after(moment) - moment)
            time.sleep(random.uniform(0, 0.1))
    follower.finish(database_url)
    print(f"kills {len(delays)}, p50 {percentile(delays, 0.5):.3f} s, worst {max(delays):.3f} s")
    assert percentile(delays, 0.99) <= 1.5 + stalls.allowance


@FORMS
def test_listener_killed_again_and_again_before_anything_new_came_is_no_crash(name, database_url):
    """Compare the log with what was handed out, each time: it holds all of it."""
    with (
        Memory(database_url) as memory,
        psycopg.connect(database_url, autocommit=True) as admin,
    ):
        memory.events.append("s", [Event(type="t", payload=n) for n in range(10)])
        follower = Follower(name, database_url)
        follower.wait(lambda: len(follower.got) == 10)
        for _ in range(3):
            before = listeners(admin)
            kill_listeners(admin)
            wait_until(lambda old=before: set(listeners(admin)) - set(old), what="a new session")
            time.sleep(0.1)  # It compares, and begins again.
        memory.events.append("s", Event(type="t", payload=10))
        follower.finish(database_url)


@pytest.fixture
def answer_timeout(monkeypatch, name):
    """Shorten the listener's wait for an answer, except with --full."""
    seconds = size(5, 1, name)
    for form in ("sync", "async"):
        monkeypatch.setattr(f"{module_name(form, 'core.listener')}.ANSWER_TIMEOUT", float(seconds))
    return seconds


@SIZED_SLOW_FORMS
def test_half_open_connection_is_given_up_and_nothing_is_lost(name, database_url, answer_timeout):
    """Drop what is sent, without RST or FIN. New connections get through."""
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
    assert delay <= answer_timeout + 2.5


@FORMS
@pytest.mark.thorough
def test_an_interrupted_network_is_waited_for(name, database_url, answer_timeout):
    """Accept new connections and answer none. The listener must try again in time."""
    with Relay(database_url) as relay, writing(database_url, 2, pause=0.02) as writers:
        follower = Follower(name, relay.url, timeout=60)
        follower.wait(lambda: len(follower.got) > 20)
        relay.silence(new=True)
        time.sleep(answer_timeout + 1.5)
        relay.heal()
        moment = time.monotonic()
        follower.wait(lambda: follower.arrival_after(moment) is not None)
        delay = follower.arrival_after(moment) - moment
        writers.stop()
        follower.finish(database_url)
    print(f"network back: {delay:.1f} s")
    assert delay <= max(answer_timeout, 2) + 2.5


@SIZED_SLOW_FORMS
def test_frozen_backend_of_the_listener_is_given_up(name, database_url, answer_timeout):
    """Stop the backend while it is idle, so that it holds no lock of the server."""
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
    assert delay <= answer_timeout + 2.5


def worst(follower) -> tuple[float, float]:
    """Return the 99th percentile and the worst of the delays from append to delivery."""
    delays = [at - sent for _, sent, at in follower.got if sent]
    return percentile(delays, 0.99), max(delays)


def send_no_notifications(memory) -> None:
    memory._database.channel = ""


POLL = 0.4
"""Seconds: the safety poll of these tests, shorter than usual."""


@SIZED_SLOW_FORMS
def test_without_notifications_events_come_by_polling(name, database_url, caplog):
    """Insert at random times: each event waits for the poll. One warning is logged."""
    follower = Follower(name, database_url, safety_poll=POLL)
    with (
        Stalls() as stalls,
        caplog.at_level(logging.WARNING, "pgmem"),
        psycopg.connect(database_url, autocommit=True) as raw,
    ):
        for n in range(size(200, 60, name)):
            raw.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', %s)",
                [str(time.monotonic())],
            )
            # Now and then so long that the reader goes back to the safety poll.
            time.sleep(random.uniform(0, 3 * POLL) if n % 10 == 0 else 0.03)
        follower.wait(lambda: len(follower.got) >= n + 1)
        p99, most = worst(follower)
        # Notifications end it.
        with Memory(database_url) as notifying:
            for _ in range(5):
                moment = time.monotonic()
                notifying.events.append("s", Event(type="t", payload=moment))
                follower.wait(lambda m=moment: follower.got[-1][1] == m)
                time.sleep(0.05)
    healed = max(at - sent for _, sent, at in follower.got[-4:])
    follower.finish(database_url)
    print(
        f"no notifications: p99 {p99:.3f} s, worst {most:.3f} s; "
        f"again with them {healed * 1000:.1f} ms"
    )
    assert p99 <= POLL + 0.5 + stalls.allowance
    assert healed < POLL / 2 + stalls.allowance
    assert caplog.text.count("by polling only") == 1


def test_no_polling_warning_if_notifications_arrive(database_url, caplog):
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


ISOLATED = """
import json, subprocess, sys, time
from pgmem import Memory
from tests.support.relay import Relay
from tests.support.stalls import Stalls
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with Relay(sys.argv[1]) as relay, Memory(relay.url, timeout=2) as memory:
    with memory.events.subscribe() as events:
        while True:
            for event in events.receive(500):
                print(json.dumps([event.position, event.payload, time.monotonic()]), flush=True)
"""
"""Runs in a network of its own, with a relay to the server's socket."""


@pytest.mark.thorough
@pytest.mark.parametrize("verb", ["drop", "reject with tcp reset"])
def test_packets_that_the_network_itself_drops_or_rejects(verb, database_url):
    """Let a real network stack drop or refuse all packets for a while."""
    needs_networks_of_its_own()
    if not conninfo_to_dict(database_url)["host"].startswith("/"):
        pytest.skip("the server that was named is not reached by a socket")
    command = ["unshare", "-n", sys.executable, "-c", ISOLATED, database_url]
    root = Path(__file__).parents[3]
    with (
        writing(database_url, 2, pause=0.02) as writers,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as follower,
    ):
        got = Lines(follower.stdout)
        nft = ("nsenter", "-t", str(follower.pid), "-n", "nft")
        try:
            wait_until(lambda: len(got.lines) > 20, what="the first events")
            run(*nft, "add", "table", "inet", "cut")
            run(*nft, "add", "chain", "inet", "cut", "out", HOOK)
            run(*nft, "add", "rule", "inet", "cut", "out", "meta", "l4proto", "tcp", *verb.split())
            time.sleep(0.1)
            before = len(got.lines)
            writers.wait_for(50)
            time.sleep(7)
            assert len(got.lines) == before, "packets get through"
            run(*nft, "delete", "table", "inet", "cut")
            moment = time.monotonic()
            wait_until(lambda: any(sent > moment for _, sent, _ in list(got.lines)), 20)
            back = next(at for _, sent, at in got.lines if sent > moment) - moment
            writers.stop()
            logged = positions(database_url)
            wait_until(lambda: len(got.lines) >= len(logged), what="all events")
        finally:
            follower.kill()
    print(f"network back: {back:.1f} s")
    assert [position for position, _, _ in got.lines] == logged
    assert back < 8


HOOK = "{ type filter hook output priority 0; }"


def run(*words) -> None:
    subprocess.run(words, check=True, capture_output=True)


def needs_networks_of_its_own() -> None:
    tools = ("ip", "nft", "unshare", "nsenter")
    if os.getuid() != 0 or not all(shutil.which(tool) for tool in tools):
        pytest.skip("needs root, ip and nft (Debian: apt-get install iproute2 nftables)")
    if subprocess.run(
        ["unshare", "-n", "nft", "add", "table", "t"], capture_output=True
    ).returncode:
        pytest.skip("this machine allows no network namespaces or no nft in them")


class Lines:
    """Collects what a process prints."""

    def __init__(self, stream) -> None:
        self.lines: list = []
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._stream:
            self.lines.append(json.loads(line))


async def test_a_frozen_connection_does_not_block_a_subscription_that_catches_up(form, monkeypatch):
    """Give its page up and read it again on another connection."""
    for tree in ("sync", "async"):
        monkeypatch.setattr(f"{module_name(tree, 'events.reader')}.ANSWER_TIMEOUT", 1.0)
    async with form.memory(pool=1) as memory:
        getattr(memory, "wrapped", memory)._database.listen_options["application_name"] = LISTENER
        await memory.events.append("s", [Event(type="t")] * 20)
        async with memory.events.subscribe(after="now"):  # From now on the feed is live.
            with psycopg.connect(form.url, autocommit=True) as admin:
                pool = admin.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgmem' "
                    "AND datname = current_database()"
                ).fetchall()
                for (pid,) in pool:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    async with memory.events.subscribe(after=5) as behind:
                        found = await behind.receive(timeout=15)
                finally:
                    for (pid,) in pool:
                        os.kill(pid, signal.SIGCONT)
        assert pool
        assert [event.position for event in found] == list(range(6, 21))
