"""Make a log to trim and stored readers that protect events, and read what is left."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pgmem import Event, migrate
from pgmem.retention.models import StreamTrim, TrimReport

HISTORY = "(SELECT system_identifier FROM pg_control_system()), 1"


def run(url, query, params=None):
    """Run a statement as the owner; return its rows."""
    with psycopg.connect(url, autocommit=True) as owner:
        cursor = owner.execute(query, params)
        return cursor.fetchall() if cursor.description else []


async def fill(memory, count, *streams):
    """Append `count` events to the streams in turn."""
    streams = streams or ("a",)
    for n in range(count):
        await memory.events.append(streams[n % len(streams)], Event(type="t", payload=n))


def insert(url, count, *, stream="a", age=0.0):
    """Insert `count` events in one statement, recorded `age` seconds ago, oldest first."""
    run(
        url,
        "INSERT INTO pgmem.events (stream, type, payload, recorded_at) "
        "SELECT %(stream)s, 't', '1', clock_timestamp() - make_interval(secs => %(age)s) "
        "+ n * interval '1 microsecond' FROM generate_series(1, %(count)s) AS n",
        {"stream": stream, "age": age, "count": count},
    )


def left(url):
    """Read the positions of the log."""
    return [row[0] for row in run(url, "SELECT position FROM pgmem.events ORDER BY position")]


def marks(url):
    """Read the recorded removals: last position and count by stream."""
    rows = run(url, "SELECT stream, position, removed FROM pgmem.trimmed ORDER BY stream")
    return {stream: (position, removed) for stream, position, removed in rows}


def report(removed, first, last, *, stream=None, kept=0, holder=None, dry_run=False):
    """Make the report of a trim of one stream or of the whole log."""
    return TrimReport(dry_run, (StreamTrim(stream, removed, first, last, kept, holder),))


async def exported(memory, folder, **limits):
    """Trim into files; return their paths."""
    report = await memory.retention.trim(**limits, export=folder)
    (stream,) = report.streams
    return [Path(file) for file in stream.files]


def store_subscription(url, position, name="c", selection="{}"):
    run(
        url,
        "INSERT INTO pgmem.subscriptions (name, filter, position, system_identifier, timeline) "
        f"VALUES (%s, %s, %s, {HISTORY}) "
        "ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        [name, selection, position],
    )


def store_group(url, position, name="g", selection="{}"):
    run(
        url,
        "INSERT INTO pgmem.groups "
        "(name, filter, max_attempts, position, system_identifier, timeline) "
        f"VALUES (%s, %s, 5, %s, {HISTORY}) "
        "ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        [name, selection, position],
    )


def add_batch(url, *positions, name="g"):
    """Insert a batch that a member of the group holds."""
    run(
        url,
        "INSERT INTO pgmem.batches (group_name, positions) VALUES (%s, %s)",
        [name, list(positions)],
    )


def add_delayed(url, position, name="g"):
    """Insert a delayed event of the group."""
    run(
        url,
        "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at) "
        "VALUES (%s, %s, 1, 'infinity')",
        [name, position],
    )


def add_dead_letter(url, position, name="g"):
    """Insert a dead letter of the group."""
    run(
        url,
        "INSERT INTO pgmem.dead_letters (group_name, position, attempts) VALUES (%s, %s, 5)",
        [name, position],
    )


@contextmanager
def roles(url):
    """Yield a function that makes a role of a kind (such as writer) and returns its URL."""
    made = []

    def make(kind):
        role = f"pgmem_{kind}_{uuid.uuid4().hex[:8]}"
        run(url, f"CREATE ROLE {role} LOGIN")
        made.append(role)
        migrate.grant(url, **{kind: role})
        return psycopg.conninfo.make_conninfo(url, user=role)

    yield make
    for role in made:
        run(url, f"DROP OWNED BY {role}; DROP ROLE {role}")
