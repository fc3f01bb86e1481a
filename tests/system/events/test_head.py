"""The highest position that was drawn: it never goes back and is never too high.

For as long as each 32nd nextval writes to the log, the sequence's own last_value is up to 32 too
high. A reader that took it for the head would take positions for void that are drawn a moment
later, and skip their events. Or it would see the head go back, and report another history.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

import psycopg
import pytest

from pgmem.core import statements as sql
from tests.support.options import size

NAME = "pgmem.events_position_seq"


@contextmanager
def drawing(url, sessions=2):
    """Draw positions in several sessions until the end of the block."""
    over = threading.Event()

    def draw():
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.is_set():
                connection.execute(
                    f"SELECT count(nextval('{NAME}')) FROM generate_series(1, 20000)"
                )

    threads = [threading.Thread(target=draw) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def steps_back(connection, expression, reads) -> int:
    """Count the reads whose head is lower than at the read before."""
    row = connection.execute(
        "SELECT count(*) FROM (SELECT head - lag(head) OVER (ORDER BY n) AS step FROM"
        f" generate_series(1, {reads}) AS n, LATERAL (SELECT {expression} + 0 * n AS head) AS _)"
        " AS steps WHERE step < 0"
    ).fetchone()
    return row[0]


@pytest.mark.sized
def test_the_head_never_goes_back_while_positions_are_drawn(database_url):
    text = sql._without_comments("event_head").format(sequence=f"'{NAME}'")
    reads = size(3_000_000, 300_000)
    with drawing(database_url), psycopg.connect(database_url, autocommit=True) as connection:
        assert steps_back(connection, text, reads) == 0


def test_every_statement_that_reads_the_head_reads_it_so():
    for name in sql.names():
        assert "last_value ELSE" not in sql.source(name)
        assert "FROM {schema}.events_position_seq" not in sql.source(name)
