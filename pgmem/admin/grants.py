"""The SQL that gives roles what reading, writing and retention need, and no more.

Which tables there are, `pgmem.admin.tables` says; `pgmem.migrate.grant` runs this.
"""

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
            "fold_snapshots",
            "state_snapshots",
            "state_snapshot_entries",
            VERSION_TABLE,
        ),
    ),
    ("SELECT", "SEQUENCE", ("events_position_seq",)),
    # Not the channel: who knows it can ring, and inline events would be believed.
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
    # Deleted by the foreign key, which acts with the owner's rights.
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
    ("SELECT", "TABLE", ("meta", "trimmed", "policies", VERSION_TABLE)),
)
_JANITOR: Final = (
    *_WRITER,
    ("DELETE", "TABLE", ("events", "limits")),
    ("INSERT, UPDATE, DELETE", "TABLE", ("trimmed", "policies")),
    ("UPDATE (log_id)", "TABLE", ("meta",)),
)
"""Privileges, kind of object, objects."""
_VACUUMED: Final = ("dedupe", "delayed", "events", "state")
"""What a janitor vacuums, where PostgreSQL lets a role that is not the owner: from 17 on."""


def grant_sql(
    schema: str = DEFAULT_SCHEMA,
    *,
    reader: str | None = None,
    writer: str | None = None,
    janitor: str | None = None,
) -> str:
    """The SQL that gives roles no more than reading, writing or retention needs.

    A reader sees events, state, snapshots and what retention does, and neither the idempotency
    keys, the stored consumers, the groups, the leases nor the doorbell's channel. A writer cannot
    change or remove an event. A janitor does what a writer does, sets the policies of retention,
    and removes events by them. Grants add up: nothing that a role was given before is taken back.

    A migration that makes tables gives nobody rights on them: grant again after it.

    Args:
        schema: the schema.
        reader: an existing role that is to read.
        writer: an existing role that is to read and write.
        janitor: an existing role that is to apply retention.

    Raises:
        InvalidInput: the schema's or a role's name cannot be used.
        InvalidInput: no role was given.
    """
    check_schema_name(schema)
    if reader is None and writer is None and janitor is None:
        raise InvalidInput("nothing to grant: give a reader's role, a writer's or a janitor's")
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
            "of at most 63 bytes, and not PUBLIC, which is everybody"
        )
    return '"' + role.replace('"', '""') + '"'
