"""Helpers for the tests of the published code's faults."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import redis

RACERS = 8
WAIT = 30


def at_once(work, times=RACERS):
    """Run `work(n)` in threads that begin together. Return the results, errors among them."""
    gate = threading.Barrier(times)

    def begin(number):
        gate.wait(WAIT)
        try:
            return work(number)
        except Exception as error:  # The test compares it.
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


def entries(layer, last_id="0", count=100):
    ((_, found),) = layer.read_events(last_id, count)
    return found


class DiesAtHset(redis.Redis):
    def hset(self, *args, **kwargs):
        raise KeyboardInterrupt


@contextlib.contextmanager
def killed_under_way(url, key):
    """Kill the backend of a writer while it waits for a row lock that this function holds."""
    over = threading.Event()

    def kill_waiting(admin, holder):
        while not over.is_set():
            time.sleep(0.01)
            if admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchall():
                holder.rollback()
                return True
        return False

    with (
        psycopg.connect(url, autocommit=True) as admin,
        psycopg.connect(url) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT FROM pgmem.state WHERE key = %s FOR UPDATE", [key])
        killing = pool.submit(kill_waiting, admin, holder)
        try:
            yield
        finally:
            over.set()
        assert killing.result(WAIT), "no backend waited, so the test shows nothing"
