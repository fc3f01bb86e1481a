"""Build the SQL that grants roles what reading, writing and retention need, and no more."""

from __future__ import annotations

from typing import Final

from pgmem.core.names import DEFAULT_SCHEMA, VERSION_TABLE, check_schema_name
from pgmem.errors import InvalidInput

_READER: Final = (
    (
        "SELECT",
        "TABLE",
        (
            "events",
            "state",
            "trimmed",
            "policies",
            "epochs",
            "fold_snapshots",
            "state_snapshots",
            "state_snapshot_entries",
            VERSION_TABLE,
        ),
    ),
    ("SELECT", "SEQUENCE", ("events_position_seq",)),
    # Not the channel: a role that knows it can notify, and send inline events that readers trust.
    ("SELECT (singleton, created_at)", "TABLE", ("meta",)),
)
_WRITER: Final = (
    ("SELECT, INSERT", "TABLE", ("events",)),
    ("SELECT, INSERT, UPDATE", "TABLE", ("state",)),
    (
        "SELECT, INSERT, UPDATE, DELETE",
        "TABLE",
        (
            "dedupe",
            "subscriptions",
            "groups",
            "batches",
            "delayed",
            "dead_letters",
            "leases",
            "imports",
        ),
    ),
    ("SELECT, INSERT, UPDATE", "TABLE", ("limits",)),
    ("SELECT, INSERT, DELETE", "TABLE", ("fold_snapshots", "state_snapshots")),
    # The foreign key deletes entries, with the owner's rights.
    ("SELECT, INSERT", "TABLE", ("state_snapshot_entries",)),
    (
        "USAGE, SELECT",
        "SEQUENCE",
        (
            "events_position_seq",
            "dedupe_token_seq",
            "subscriptions_token_seq",
            "batches_id_seq",
            "batches_token_seq",
            "leases_token_seq",
        ),
    ),
    ("SELECT", "TABLE", ("meta", "trimmed", "policies", "epochs", VERSION_TABLE)),
)
_JANITOR: Final = (
    *_WRITER,
    ("DELETE", "TABLE", ("events", "limits")),
    ("INSERT, UPDATE, DELETE", "TABLE", ("trimmed", "policies")),
    ("UPDATE (log_id)", "TABLE", ("meta",)),
)
"""Privileges, kind of object, objects."""
_VACUUMED: Final = ("dedupe", "delayed", "events", "state")
"""The tables that a janitor vacuums. PostgreSQL 17 and newer let a role do it that is no owner."""


def grant_sql(
    schema: str = DEFAULT_SCHEMA,
    *,
    reader: str | None = None,
    writer: str | None = None,
    janitor: str | None = None,
) -> str:
    """Build the SQL that grants roles what reading, writing or retention needs, and no more.

    A reader sees events, state, snapshots and policies. It sees neither idempotency keys,
    subscriptions, groups, leases nor the notification channel. A writer cannot change or remove an
    event. A janitor may do what a writer does, set policies, and remove events by them. Grants add
    up: a role keeps what it was granted before.

    A migration that creates tables grants no rights on them: grant again after it.

    Args:
        schema: the schema.
        reader: an existing role that reads.
        writer: an existing role that reads and writes.
        janitor: an existing role that applies retention.

    Raises:
        InvalidInput: no role is given, or the name of the schema or of a role cannot be used.
    """
    check_schema_name(schema)
    if reader is None and writer is None and janitor is None:
        raise InvalidInput("nothing to grant: give reader=, writer= or janitor=")
    lines: list[str] = []
    for role, privileges in ((reader, _READER), (writer, _WRITER), (janitor, _JANITOR)):
        if role is not None:
            name = _quoted_role(role)
            lines.append(f'GRANT USAGE ON SCHEMA "{schema}" TO {name};')
            lines += [
                f'GRANT {what} ON {kind} "{schema}".{thing} TO {name};'
                for what, kind, things in privileges
                for thing in things
            ]
    if janitor is not None:
        lines.append(_grant_maintain(schema, _quoted_role(janitor)))
    return "\n".join(lines) + "\n"


def _grant_maintain(schema: str, role: str) -> str:
    tables = ", ".join(f'"{schema}".{table}' for table in _VACUUMED)
    quote = "$grant$"
    while quote in role:
        quote = f"$_{quote[1:]}"
    return (
        f"DO {quote} BEGIN IF current_setting('server_version_num')::integer >= 170000 THEN "
        f"GRANT MAINTAIN ON TABLE {tables} TO {role}; END IF; END {quote};"
    )


def _quoted_role(role: str) -> str:
    size = len(role.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= 63 or not role.isprintable() or role.lower() == "public":
        raise InvalidInput(
            f"{ascii(role)[:80]} is not a role to grant to: give the name of an existing role, "
            "of at most 63 bytes, and not PUBLIC, which is every role"
        )
    return '"' + role.replace('"', '""') + '"'
