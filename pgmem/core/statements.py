"""Load the SQL statements, one in a file, and fill in their placeholders.

A `.sql` file of a capability's `sql/` folder is one statement, or a piece that others include.
Placeholders are filled in once for each memory::

    {schema} ──────── the schema's name, quoted
    {table x} ─────── the qualified name of table x as a string literal, for regclass
    {pages x} ─────── the number of pages of table x
    {events} ──────── the qualified name of the events table as a string literal
    {sequence} ────── the same for the sequence of positions
    {dedupe_tokens}, {subscription_tokens}, {batch_tokens}, {lease_tokens}
                    ─ the same for the sequences of fencing tokens
    {notify} ──────── notify listeners; see `NOTIFY`
    {notify_target} ─ send `target.payload`, if there is one, to all listeners
    {notify_listener} ─ send `target.payload`, if there is one, to the listener `target.listener`
    {inline} ──────── the notification's payload: empty, or the row `event` (fragment `INLINE`), or
                      the rows of the CTE `event` (fragment `INLINE_ALL`)
    {with_inline} ─── join the CTE `event` if its one row is sent as the payload
    {returned} ────── the columns that the CTE `event` must return: all of them if it is sent
    {fenced} ──────── empty, or (fragment `FENCED`) the outcome of the CTE `fence`
    {commit} ──────── set synchronous_commit for this transaction if durability is relaxed
    {include x} ───── the text of x.sql
    {filter}, {direction} … ─ fragments that an op chooses from fixed texts

Functions and types are written without pg_catalog and sent with it; see `pgmem.core.qualified`.
Parameters are psycopg's named ones, `%(key)s`. The channel's name is a parameter, `%(channel)s`,
because it is a secret and other roles can see the text of a statement. No input of a user is ever
formatted into a statement: the schema's name is checked and quoted, the lock is made here.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal, NamedTuple

from psycopg import sql

from pgmem.core.qualified import qualify

NotifyMode = Literal["if_free", "always", "never"]

CAPABILITIES = (
    "core", "events", "state", "dedupe", "groups", "leases", "retention", "folds", "optimistic",
    "digest", "admin", "redis",
)  # fmt: skip
"""The folders whose `sql/` holds statements. A name is unique among all of them."""

NOTIFY: dict[NotifyMode, str] = {
    # For short transactions. A writer that finds the first lock taken takes the second one, and its
    # notification tells readers to poll. A writer that finds both taken does not notify. Readers
    # still see its event, because it drew its position before the second lock's holder notifies.
    "if_free": """CASE
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5::float8 THEN 'full'
        WHEN CASE
            WHEN pg_catalog.pg_try_advisory_xact_lock({notify_lock}) THEN false
            WHEN pg_catalog.pg_try_advisory_xact_lock({crowded_lock})
            THEN pg_catalog.pg_notify(%(channel)s, '+') IS NULL
            ELSE true END THEN 'busy'
        WHEN pg_catalog.pg_notify(%(channel)s, {inline}) IS NULL THEN NULL
        ELSE 'sent' END""",
    # For transactions of unknown length: they would hold the locks for too long. No writer is
    # silent because of them.
    "always": """CASE
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5::float8 THEN 'full'
        WHEN pg_catalog.pg_notify(%(channel)s, {inline}) IS NULL THEN NULL
        ELSE 'sent' END""",
    "never": "'off'::text",
}

_NOTIFY_TARGET = """CASE
        WHEN target.payload IS NULL THEN NULL
        WHEN pg_catalog.pg_notification_queue_usage() > 0.5::float8 THEN 'full'
        WHEN pg_catalog.pg_notify({to}, target.payload) IS NULL THEN NULL
        ELSE 'sent' END"""

NOTIFY_TARGET = _NOTIFY_TARGET.replace("{to}", "%(channel)s")
"""Takes no lock, because another writer's notification does not stand for this one. The payload is
the JSON text `["!", name, detail]`; see `pgmem.core.notifications`."""

NOTIFY_LISTENER = _NOTIFY_TARGET.replace("{to}", "%(channel)s || '.' || target.listener")
"""Send to the channel of one process, so that no other process is woken."""

FENCED = ("fenced", " EXISTS (SELECT FROM fence),")
"""The fragment that adds the outcome of a fence."""

CROWDED = "+"
"""The notification of a writer that found the first notification lock taken. Other writers may have
committed without notifying, so a reader polls. A bare notification is empty."""

INLINE = ("inline", "one")
"""The fragment that sends the event itself as the notification's payload."""
INLINE_ALL = ("inline", "all")
"""The fragment that sends several events as the payload of one notification."""

_INLINE_PAYLOADS = {
    None: "''",
    INLINE: "json_build_array(1, {row})::text",
    INLINE_ALL: (
        "(SELECT '[1,' || string_agg({row}::text, ',' ORDER BY position) || ']' FROM event)"
    ),
}
"""The first number is the payload's format. Readers treat another format as a bare notification."""

_COMMITS = {
    True: "pg_catalog.set_config('synchronous_commit', 'off', true)",
    False: "NULL::text",
}

_INCLUDE = re.compile(r"\{include (\w+)\}")
_TABLE = re.compile(r"\{table (\w+)\}")
_PAGES = re.compile(r"\{pages (\w+)\}")
_PAGE_COUNT = (
    r"pg_catalog.pg_relation_size({table \1})"
    r" / pg_catalog.current_setting('block_size')::bigint"
)
_COMMENT = re.compile(r"^\s*--.*\n", flags=re.MULTILINE)


class Dialect(NamedTuple):
    """The values of a statement's placeholders.

    Attributes:
        schema: the schema's name.
        channel: the notification channel, or "" for a role that may not notify.
        notify: when to notify.
        relaxed: turn synchronous_commit off for the statement's transaction.
        inline: send small events in the notification.
    """

    schema: str
    channel: str = ""
    notify: NotifyMode = "never"
    relaxed: bool = False
    inline: bool = True


def notify_lock(channel: str, *, crowded: bool = False) -> int:
    """Return the key of an advisory lock of a channel: 64 bits of its SHA-256, signed.

    Args:
        channel: the channel.
        crowded: for the second lock, which a writer tries if it finds the first one taken.
    """
    digest = hashlib.sha256(channel.encode()).digest()
    return int.from_bytes(digest[8:16] if crowded else digest[:8], "big", signed=True)


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


def _without_comments(name: str) -> str:
    return _COMMENT.sub("", source(name)).rstrip()


def _with_includes(name: str) -> str:
    return _INCLUDE.sub(lambda found: _with_includes(found[1]), _without_comments(name))


@cache
def statement(name: str, dialect: Dialect, fragments: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Return the statement `name` as it is sent to the server.

    Args:
        name: the file's name without its ending.
        dialect: what the placeholders are filled with.
        fragments: further placeholders and their texts. Never a user's text.

    Raises:
        KeyError: there is no such statement.
    """
    text = _with_includes(name)
    inline = next((kind for kind in (INLINE, INLINE_ALL) if kind in fragments), None)
    sent = inline if dialect.inline else None
    payload = _INLINE_PAYLOADS[sent].replace("{row}", _without_comments("event_inline"))
    never = dialect.notify == "never"
    pieces = {
        "notify": NOTIFY[dialect.notify],
        "notify_target": NOTIFY["never"] if never else NOTIFY_TARGET,
        "notify_listener": NOTIFY["never"] if never else NOTIFY_LISTENER,
        "commit": _COMMITS[dialect.relaxed],
        "fenced": "",
        **dict(fragments),
        "inline": payload,
        "with_inline": "LEFT JOIN event ON true" if inline == INLINE else "",
        "returned": "position" if inline is None else "*",
    }
    for placeholder, piece in pieces.items():
        text = text.replace(f"{{{placeholder}}}", piece)
    text = qualify(text)
    schema = sql.Identifier(dialect.schema)
    quoted = schema.as_string(None)
    text = _TABLE.sub(
        lambda found: sql.Literal(f"{quoted}.{found[1]}").as_string(None),
        _PAGES.sub(_PAGE_COUNT, text),
    )
    return (
        sql.SQL(text)
        .format(
            schema=schema,
            events=sql.Literal(f"{quoted}.events"),
            sequence=sql.Literal(f"{quoted}.events_position_seq"),
            dedupe_tokens=sql.Literal(f"{quoted}.dedupe_token_seq"),
            subscription_tokens=sql.Literal(f"{quoted}.subscriptions_token_seq"),
            batch_tokens=sql.Literal(f"{quoted}.batches_token_seq"),
            lease_tokens=sql.Literal(f"{quoted}.leases_token_seq"),
            notify_lock=sql.Literal(notify_lock(dialect.channel)),
            crowded_lock=sql.Literal(notify_lock(dialect.channel, crowded=True)),
        )
        .as_bytes(None)
    )
