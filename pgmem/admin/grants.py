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
_EVENT: Final = "position, stream, stream_version, type, agent_id, payload, metadata"
_STATE_EVENT: Final = (
    f"{_EVENT}, state_key, state_version, state_deleted, state_value, state_expires_at"
)
"""The columns of an event that a writer fills in. The server sets `recorded_at`."""
_LOG: Final = (
    ("SELECT", "TABLE", ("events", "meta", "trimmed", "policies", "epochs", VERSION_TABLE)),
    ("USAGE, SELECT", "SEQUENCE", ("events_position_seq", "dedupe_token_seq")),
)
_APPENDER: Final = (
    *_LOG,
    (f"INSERT ({_EVENT})", "TABLE", ("events",)),
    ("SELECT, INSERT, UPDATE", "TABLE", ("dedupe",)),
)
_READERS: Final = (
    (
        "SELECT, INSERT, UPDATE, DELETE",
        "TABLE",
        ("subscriptions", "groups", "batches", "delayed", "dead_letters", "leases"),
    ),
    (
        "USAGE, SELECT",
        "SEQUENCE",
        ("subscriptions_token_seq", "batches_id_seq", "batches_token_seq", "leases_token_seq"),
    ),
)
_OPERATOR: Final = (*_READER, ("SELECT", "TABLE", ("meta",)), *_READERS)
_AGENT: Final = (
    *_LOG,
    *_READERS,
    (f"INSERT ({_STATE_EVENT})", "TABLE", ("events",)),
    ("SELECT, INSERT, UPDATE", "TABLE", ("state", "limits")),
    ("SELECT, INSERT, UPDATE, DELETE", "TABLE", ("dedupe", "imports")),
    ("SELECT, INSERT, DELETE", "TABLE", ("fold_snapshots", "state_snapshots")),
    # The foreign key deletes entries, with the owner's rights.
    ("SELECT, INSERT", "TABLE", ("state_snapshot_entries",)),
)
_JANITOR: Final = (
    *_AGENT,
    ("DELETE", "TABLE", ("limits",)),
    ("INSERT, UPDATE, DELETE", "TABLE", ("policies",)),
    ("UPDATE (trimmed_at)", "TABLE", ("trimmed",)),
    ("UPDATE (log_id)", "TABLE", ("meta",)),
    ("EXECUTE", "FUNCTION", ("trim_events(text, bigint[], boolean)",)),
)
ROLES: Final = {
    "reader": _READER,
    "appender": _APPENDER,
    "agent": _AGENT,
    "operator": _OPERATOR,
    "janitor": _JANITOR,
}
"""For each kind of role: privileges, kind of object, objects."""
_VACUUMED: Final = ("dedupe", "delayed", "events", "state")
"""The tables that a janitor vacuums. PostgreSQL 17 and newer let a role do it that is no owner."""


def grant_sql(schema: str = DEFAULT_SCHEMA, **roles: str | None) -> str:
    """Build the SQL that grants roles what they need, and no more.

    - A `reader` sees events, state, snapshots and policies. It sees neither idempotency keys,
      subscriptions, groups, leases nor the notification channel.
    - An `appender` reads and appends events, also under idempotency keys, and sees no state.
    - An `agent` reads and writes everything through pgmem. It cannot change or remove an event, set
      the time of one, or delete an entry.
    - An `operator` reads as a reader, and repairs groups, subscriptions and leases: requeue, reset,
      release. It writes neither events nor state.
    - A `janitor` may do what an agent does, set policies, and remove events. They go through
      a function that spares protected events and records what it removed.

    Grants add up: a role keeps what it was granted before. A migration that creates tables grants
    no rights on them: grant again after it. The schema's owner restores files of removed events.

    Args:
        schema: the schema.
        roles: the kind of role and the name of an existing role, such as ``agent="app"``.

    Raises:
        InvalidInput: no role is given, a kind is unknown, or the name of the schema or of a role
            cannot be used.
    """
    check_schema_name(schema)
    if unknown := sorted(roles.keys() - ROLES.keys()):
        raise InvalidInput(f"{unknown[0]}= is no kind of role: take {', '.join(ROLES)}")
    given = {kind: role for kind, role in roles.items() if role is not None}
    if not given:
        raise InvalidInput(f"nothing to grant: give one of {', '.join(ROLES)}")
    lines: list[str] = []
    for kind in ROLES:
        if kind not in given:
            continue
        name = _quoted_role(given[kind])
        lines.append(f'GRANT USAGE ON SCHEMA "{schema}" TO {name};')
        lines += [
            f'GRANT {what} ON {sort} "{schema}".{thing} TO {name};'
            for what, sort, things in ROLES[kind]
            for thing in things
        ]
        if kind == "janitor":
            lines.append(_grant_maintain(schema, name))
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
