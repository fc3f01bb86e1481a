"""Run members of a group as processes, kill some, and check every delivery.

Before a member handles events it records its deliveries and the end of its lease, by the server's
clock. After an acknowledgement it records whether that was accepted or refused. `audit` checks
these records: no event had two holders at once, none was delivered after its acknowledgement.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

import psycopg

from tests.support.processes import Worker

TABLE = """
CREATE TABLE handed (
    position bigint, token bigint, member text, attempts int, key text,
    asked timestamptz, begun timestamptz DEFAULT clock_timestamp(), lease_until timestamptz,
    acked timestamptz, refused timestamptz, PRIMARY KEY (position, token)
);
CREATE TABLE effects (position bigint, token bigint);
CREATE TABLE killed (at timestamptz DEFAULT clock_timestamp())"""

# Takes batches until told to stop. Now and then it sleeps beyond its lease before it acknowledges.
MEMBER = """
import json, os, random, sys, threading, time
import psycopg
from pgmem import Memory
from pgmem.errors import LeaseLost
url, name, seed, lease, how, order = sys.argv[1:7]
rng, lease = random.Random(int(seed)), float(lease)
NOTE = "UPDATE handed SET {} = clock_timestamp() WHERE position = %s AND token = %s"
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
with Memory(url, pool=(1, 3)) as memory, psycopg.connect(url, autocommit=True) as notes:
    group = memory.groups.create("killed", stream="work", after=0, ordered_by=order or None,
                               max_attempts=1000, exist_ok=True)
    held, first = [], True
    while not stop.is_set():
        asked = time.time()
        try:
            batch = group.read(name, limit=rng.randint(1, 20), timeout=0.2, lease=lease, ack=held)
        except LeaseLost:
            notes.cursor().executemany(NOTE.format("refused"), mine)
            held = []
            continue
        if held:
            notes.cursor().executemany(NOTE.format("acked"), mine)
        held = []
        if not batch:
            continue
        notes.cursor().executemany(
            "INSERT INTO handed (position, token, member, attempts, key, lease_until, asked) "
            "VALUES (%s, %s, %s, %s, %s, %s, to_timestamp(%s))",
            [(d.event.position, d.token, name, d.attempts, d.event.payload["key"], d.expires_at,
              asked) for d in batch])
        if first:
            print(json.dumps("reads"), flush=True)
            first = False
        time.sleep(rng.uniform(0, 0.04))
        if rng.random() < 0.01:
            time.sleep(lease * rng.uniform(0.8, 1.6))
        mine = [(d.event.position, d.token) for d in batch]
        if how != "transaction" and rng.random() < 0.8:
            held = batch  # With the next read.
            continue
        try:
            if how == "transaction":
                with memory.transaction() as tx:
                    tx.connection.cursor().executemany("INSERT INTO effects VALUES (%s, %s)", mine)
                    tx.connection.cursor().executemany(NOTE.format("acked"), mine)
                    group.ack(batch, tx)
            else:
                group.ack(batch)
                notes.cursor().executemany(NOTE.format("acked"), mine)
        except LeaseLost:
            notes.cursor().executemany(NOTE.format("refused"), mine)
    # What is held here has been taken over: all of it is acknowledged.
"""


class Audit(NamedTuple):
    """Counts of the members' records.

    Attributes:
        handed: deliveries.
        again: deliveries after the first of an event.
        refused: refused acknowledgements.
        passed_over: the most batches of new events that members claimed between the end of a lease
            and the claim that took its events over.
    """

    handed: int
    again: int
    refused: int
    passed_over: int


def work_under_kills(url, rng: random.Random, *, kills: int, lease: float, how="", order="") -> int:
    """Run eight members on the stream and kill them as they work; return the number of kills.

    A member is killed after its first delivery, and the kills keep pace with the group's position,
    so that most members live and all of the work is done under kills.
    """

    def member(number: int) -> Worker:
        return Worker(MEMBER, url, f"m{number}", rng.randrange(2**31), lease, how, order)

    members = [member(number) for number in range(8)]
    done, deadline = 0, time.monotonic() + 600
    with psycopg.connect(url, autocommit=True) as server:
        while not _all_acknowledged(server):
            assert time.monotonic() < deadline, "did not finish"
            time.sleep(rng.uniform(0.005, 0.03))
            number = rng.randrange(len(members))
            if members[number].lines and done < kills and done < 1.5 * kills * _progress(server):
                members[number].kill()
                server.execute("INSERT INTO killed DEFAULT VALUES")
                done += 1
                members[number] = member(number)
    for one in members:
        one.say()
    for one in members:
        one.finish()
    return done


def _progress(server) -> float:
    """Return the part of the stream that the group's position has passed."""
    return server.execute(
        "SELECT coalesce((SELECT position FROM pgmem.groups WHERE name = 'killed'), 0)::float8"
        " / (SELECT max(position) FROM pgmem.events WHERE stream = 'work')"
    ).fetchone()[0]


def _all_acknowledged(server) -> bool:
    head, position = server.execute(
        "SELECT (SELECT max(position) FROM pgmem.events WHERE stream = 'work'),"
        " (SELECT position FROM pgmem.groups WHERE name = 'killed')"
    ).fetchone()
    if position is None or position < head:
        return False
    return server.execute(
        "SELECT NOT EXISTS (SELECT FROM pgmem.batches WHERE positions || prefetched <> '{}')"
        " AND NOT EXISTS (SELECT FROM pgmem.delayed)"
        " AND NOT EXISTS (SELECT FROM pgmem.dead_letters)"
    ).fetchone()[0]


# A delivery ends with its acknowledgement or with its lease. A later token may only begin after
# that.
_TOGETHER = """
SELECT a.position, a.member, b.member, a.lease_until, b.begun
FROM handed AS a JOIN handed AS b ON a.position = b.position AND a.token < b.token
WHERE b.begun < coalesce(a.acked, a.lease_until)"""

_AFTER_ACK = """
SELECT a.position, a.member, b.member
FROM handed AS a JOIN handed AS b ON a.position = b.position AND a.token < b.token
WHERE a.acked IS NOT NULL"""

# A claim takes what has expired before it takes new events. `asked` is before the claim, and the
# end of the new lease is a fixed time after it.
_PASSED_OVER = """
SELECT count(DISTINCT c.token)
FROM handed AS a CROSS JOIN LATERAL (
    SELECT lease_until, attempts FROM handed WHERE position = a.position AND token > a.token
    ORDER BY token LIMIT 1) AS b
JOIN handed AS c ON c.asked > a.lease_until AND c.lease_until < b.lease_until
    AND NOT EXISTS (SELECT FROM handed WHERE position = c.position AND token < c.token)
-- An event that was lost alone has one attempt more. A member that was killed in between may have
-- held it without a record.
WHERE b.attempts = a.attempts + 1
  AND NOT EXISTS (SELECT FROM killed WHERE at BETWEEN a.lease_until AND b.lease_until)
  AND NOT EXISTS (SELECT FROM handed WHERE token = a.token AND position <> a.position)
GROUP BY a.position, a.token ORDER BY 1 DESC LIMIT 1"""

# Of two events of one key, the later one begins after the acknowledgement of the earlier one, or
# with it in one batch. The record must commit with the acknowledgement: recorded afterwards, it may
# be later than the beginning of the next delivery.
_OUT_OF_ORDER = """
WITH done AS (
    SELECT position, key, token, begun, acked,
           lag(acked) OVER w AS acked_before, lag(token) OVER w AS token_before,
           lag(position) OVER w AS position_before
    FROM handed WHERE acked IS NOT NULL WINDOW w AS (PARTITION BY key ORDER BY position))
SELECT key, position_before, position FROM done
WHERE begun < acked_before AND token <> token_before"""

_KEY_TOGETHER = """
SELECT a.key, a.position, a.member, b.position, b.member
FROM handed AS a JOIN handed AS b ON a.key = b.key AND a.token < b.token
WHERE a.member <> b.member AND b.begun < coalesce(a.acked, a.lease_until) AND b.begun > a.begun
  -- Killed between acknowledgement and record: the end of the delivery is not known.
  AND (a.acked IS NOT NULL OR EXISTS (
      SELECT FROM handed AS newer WHERE newer.position = a.position AND newer.token > a.token))"""


def audit(url, events: int, *, ordered: bool = False) -> Audit:
    """Check the records of every member; raise AssertionError at the first fault."""
    with psycopg.connect(url, autocommit=True) as server:

        def rows(query):
            return server.execute(query).fetchall()

        # Outside of a transaction a member may be killed between acknowledgement and record.
        counts = rows("SELECT position, count(acked) FROM handed GROUP BY position")
        assert len(counts) == events, f"{events - len(counts)} events were never handed out"
        assert max(times for _, times in counts) <= 1, "an event was acknowledged twice"
        assert rows(_TOGETHER) == [], "two live holders at once"
        assert rows(_AFTER_ACK) == [], "handed out again after its acknowledgement"
        refused_but_last = rows(
            "SELECT position FROM handed AS h WHERE refused IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM handed AS newer"
            " WHERE newer.position = h.position AND newer.token > h.token)"
        )
        assert refused_but_last == [], "refused, and no member took over"
        if ordered:
            assert rows(_OUT_OF_ORDER) == [], "two events of a key out of order"
            assert rows(_KEY_TOGETHER) == [], "two members at one key"
        total, refused = rows("SELECT count(*), count(refused) FROM handed")[0]
        passed_over = rows(_PASSED_OVER)
        found = Audit(total, total - events, refused, passed_over[0][0] if passed_over else 0)
    print(found)
    return found
