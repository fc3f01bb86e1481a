"""Following the log: stored consumers, what retention removed, and which state may be cached.

Frozen: it imports nothing of pgmem, so that it makes the same schema for ever. Every name is
qualified with the schema that `env.py` hands over.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = (
    # 2: the last change is in the log, so a copy elsewhere learns of the next one. 1: the last
    # change is in the log, and later ones may not be. 0: the last change is not in the log. What
    # was written before this revision is 1: nobody has a copy of it.
    """
ALTER TABLE {schema}.state
    ADD COLUMN recording smallint DEFAULT 1 NOT NULL,
    ADD CONSTRAINT state_recording_known CHECK (recording BETWEEN 0 AND 2)""",
    # Of no table's own: a fencing token is never given out twice, also after its row is gone.
    "CREATE SEQUENCE {schema}.consumers_token_seq",
    # A position belongs to the history that it was made in: the server and its timeline.
    """
CREATE TABLE {schema}.consumers (
    name text COLLATE "C" NOT NULL,
    selection json NOT NULL,
    position bigint NOT NULL,
    token bigint DEFAULT nextval('{schema}.consumers_token_seq'::regclass) NOT NULL,
    owner text COLLATE "C",
    lease_until timestamp with time zone,
    system_identifier bigint NOT NULL,
    timeline integer NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT consumers_pkey PRIMARY KEY (name),
    CONSTRAINT consumers_name_length CHECK (octet_length(name) BETWEEN 1 AND 512),
    CONSTRAINT consumers_position_positive CHECK (position >= 0)
) WITH (fillfactor = 50)""",
    # Up to which position retention has removed events: of one stream, or ('') of the whole log.
    """
CREATE TABLE {schema}.trimmed (
    stream text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    trimmed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT trimmed_pkey PRIMARY KEY (stream),
    CONSTRAINT trimmed_stream_length CHECK (octet_length(stream) <= 518),
    CONSTRAINT trimmed_position_positive CHECK (position > 0)
)""",
)

DOWNGRADE = (
    "DROP TABLE {schema}.trimmed",
    "DROP TABLE {schema}.consumers",
    "DROP SEQUENCE {schema}.consumers_token_seq",
    "ALTER TABLE {schema}.state DROP COLUMN recording",
)


def upgrade() -> None:
    """Adds to the tables of 0001."""
    _run(UPGRADE)


def downgrade() -> None:
    """Removes what `upgrade` added, and the stored positions with it."""
    _run(DOWNGRADE)


def _run(statements: tuple[str, ...]) -> None:
    schema = f'"{context.get_context().opts["version_table_schema"]}"'  # checked by env.py
    for statement in statements:
        sql = statement.strip().replace("{schema}", schema)
        op.execute(text(sql.replace(":", r"\:")))  # text() would read :name as a parameter
