"""The statements, one verb a file, and their loader.

A `.sql` file is a statement with these marks, which the loader fills in once per memory:

    {schema}   the schema's name, quoted
    {events}   the events table's quoted name as a string literal, for regclass
    {sequence} the sequence that positions come from, likewise
    {tokens}   the sequence that fencing tokens of claims come from, likewise
    {consumer_tokens}  the sequence that those of consumers come from, likewise
    {delivery_tokens}, {lease_tokens}  those of deliveries and of leases, likewise
    {table x}  the table x, likewise
    {pages x}  of how many pages the table x consists now
    {bell}     rings the doorbell; see `BELLS`
    {signal}   wakes the one that `signal.payload` names, if it names one; see `SIGNAL`
    {signal_to}  the same where `signal.mark` tells the one process that it is for
    {fenced}   nothing, or (the mark `FENCED`) whether the lease of the CTE `fence` is still ours
    {letter}   what rides on it: nothing, or (the mark `INLINE`) the row `event` as text
    {with_letter}  joins the one event of the CTE `event`, if it rides on the bell
    {commit}   sets synchronous_commit for this transaction where durability is relaxed
    {include x}  the text of the file x.sql: a piece that several statements share
    {filter} {direction}  pieces that the ops choose from a fixed list (`marks`)

Parameters are psycopg's named ones, `%(key)s`; where there is a bell, `%(channel)s` is one: the
channel's name is a secret, and other roles can see a statement's text. Nothing of a user is ever
formatted into a statement: the schema's name is checked against an allow-list and quoted, the lock
is a literal made here.

This module reads files; it runs nothing.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal, NamedTuple

from psycopg import sql

NotifyMode = Literal["try", "ring", "silent"]

CAPABILITIES = (
    "core", "events", "state", "dedupe", "groups", "leases", "retention", "folds", "admin", "redis",
)  # fmt: skip
"""The folders whose `sql/` holds statements. A name is unique among all of them."""

BELLS: dict[NotifyMode, str] = {
    # Our own short transactions: whoever finds the bell taken stays silent and is still seen,
    # because it drew its position before the ringer's notification is sent.
    "try": """CASE
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5 THEN 'full'
        WHEN NOT pg_catalog.pg_try_advisory_xact_lock({bell_lock}) THEN 'taken'
        WHEN pg_catalog.pg_notify(%(channel)s, {letter}) IS NULL THEN NULL
        ELSE 'rung' END""",
    # Transactions of unknown length must not hold the bell: they ring without the lock.
    "ring": """CASE
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5 THEN 'full'
        WHEN pg_catalog.pg_notify(%(channel)s, '') IS NULL THEN NULL
        ELSE 'rung' END""",
    "silent": "'silent'::text",
}

_SIGNAL = """CASE
        WHEN signal.payload IS NULL THEN NULL
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5 THEN 'full'
        WHEN pg_catalog.pg_notify({to}, signal.payload) IS NULL THEN NULL
        ELSE 'rung' END"""

SIGNAL = _SIGNAL.replace("{to}", "%(channel)s")
"""Sent whoever has the bell: nobody else's ring stands for it. The payload is `["!", name, detail]`
as JSON text; see `pgmem.core.notifications`."""

SIGNAL_TO = _SIGNAL.replace("{to}", "%(channel)s || '.' || signal.mark")
"""On the channel of one process: of a hundred that listen to the doorbell, no other gets it."""

FENCED = ("fenced", " EXISTS (SELECT FROM fence),")
"""The mark for telling the outcome of a fence."""

INLINE = ("letter", "inline")
"""The mark for sending the event itself with the bell."""

_COMMITS = {
    True: "pg_catalog.set_config('synchronous_commit', 'off', true)",
    False: "NULL::text",
}


_INCLUDE = re.compile(r"\{include (\w+)\}")
_TABLE = re.compile(r"\{table (\w+)\}")
_PAGES = re.compile(r"\{pages (\w+)\}")
PAGES = r"pg_catalog.pg_relation_size({table \1}) / current_setting('block_size')::bigint"
_COMMENT = re.compile(r"^\s*--.*\n", flags=re.MULTILINE)


class Dialect(NamedTuple):
    """What the marks of a statement are filled with.

    Attributes:
        schema: the schema's name.
        channel: the doorbell's channel, or "" for a role that may not ring.
        bell: how to ring.
        relaxed: whether synchronous_commit is turned off for the statement's transaction.
    """

    schema: str
    channel: str = ""
    bell: NotifyMode = "silent"
    relaxed: bool = False


def bell_lock(channel: str) -> int:
    """The advisory lock that guards ringing `channel`: 64 bits of its SHA-256, signed."""
    return int.from_bytes(hashlib.sha256(channel.encode()).digest()[:8], "big", signed=True)


@cache
def _files() -> dict[str, Traversable]:
    """Index the statements of every capability by name."""
    root = resources.files("pgmem")
    return {
        file.name.removesuffix(".sql"): file
        for capability in CAPABILITIES
        for file in root.joinpath(capability, "sql").iterdir()
        if file.name.endswith(".sql")
    }


@cache
def source(name: str) -> str:
    """Return the text of a statement's file, placeholders included.

    Raises:
        KeyError: there is no such statement.
    """
    return _files()[name].read_text(encoding="utf-8")


@cache
def names() -> tuple[str, ...]:
    """Return the names of all statements, sorted."""
    return tuple(sorted(_files()))


def _uncommented(name: str) -> str:
    return _COMMENT.sub("", source(name)).rstrip()


def _whole(name: str) -> str:
    """With the pieces that it includes, and those that they include."""
    return _INCLUDE.sub(lambda found: _whole(found[1]), _uncommented(name))


@cache
def statement(name: str, dialect: Dialect, marks: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The statement `name` as it is sent to the server.

    Args:
        name: the file's name without its ending.
        dialect: what the marks are filled with.
        marks: further pieces, as pairs of a mark's name and its text. Never a user's text.

    Raises:
        KeyError: there is no such statement.
    """
    text = _whole(name)
    inline = INLINE in marks
    pieces = {
        "bell": BELLS[dialect.bell],
        "signal": BELLS["silent"] if dialect.bell == "silent" else SIGNAL,
        "signal_to": BELLS["silent"] if dialect.bell == "silent" else SIGNAL_TO,
        "commit": _COMMITS[dialect.relaxed],
        "fenced": "",
        **dict(marks),
        "letter": _uncommented("event_letter") if inline else "''",
        "with_letter": "LEFT JOIN event ON true" if inline else "",
    }
    for mark, piece in pieces.items():
        text = text.replace(f"{{{mark}}}", piece)
    schema = sql.Identifier(dialect.schema)
    quoted = schema.as_string(None)
    text = _TABLE.sub(
        lambda found: sql.Literal(f"{quoted}.{found[1]}").as_string(None), _PAGES.sub(PAGES, text)
    )
    return (
        sql.SQL(text)
        .format(
            schema=schema,
            events=sql.Literal(f"{quoted}.events"),
            sequence=sql.Literal(f"{quoted}.events_position_seq"),
            tokens=sql.Literal(f"{quoted}.dedupe_token_seq"),
            consumer_tokens=sql.Literal(f"{quoted}.consumers_token_seq"),
            delivery_tokens=sql.Literal(f"{quoted}.deliveries_token_seq"),
            lease_tokens=sql.Literal(f"{quoted}.leases_token_seq"),
            bell_lock=sql.Literal(bell_lock(dialect.channel)),
        )
        .as_bytes(None)
    )
