"""Importing: how far each part of another store has been brought into the memory.

Frozen: it imports nothing of pgmem, so that it makes the same schema for ever. Every name is
qualified with the schema that `env.py` hands over.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-22
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = (
    # The token says who opened a part last: only that one makes the next step. Two parts cannot
    # go to one stream: the index finds it before anything is written twice.
    """
CREATE TABLE {schema}.imports (
    source text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    target text COLLATE "C",
    cursor text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL,
    step bigint DEFAULT 0 NOT NULL,
    done bigint DEFAULT 0 NOT NULL,
    refused bigint DEFAULT 0 NOT NULL,
    detail json DEFAULT '{}' NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT imports_pkey PRIMARY KEY (source, part),
    CONSTRAINT imports_source_length CHECK (octet_length(source) BETWEEN 1 AND 512),
    CONSTRAINT imports_part_length CHECK (octet_length(part) BETWEEN 1 AND 528),
    CONSTRAINT imports_target_length CHECK (octet_length(target) BETWEEN 1 AND 512)
) WITH (fillfactor = 50)""",
    "CREATE UNIQUE INDEX imports_target_key ON {schema}.imports (target)",
)

DOWNGRADE = ("DROP TABLE {schema}.imports",)


def upgrade() -> None:
    """Adds to the tables of 0003."""
    _run(UPGRADE)


def downgrade() -> None:
    """Removes what `upgrade` added: an import that is run again then begins anew."""
    _run(DOWNGRADE)


def _run(statements: tuple[str, ...]) -> None:
    schema = f'"{context.get_context().opts["version_table_schema"]}"'  # checked by env.py
    for statement in statements:
        sql = statement.strip().replace("{schema}", schema)
        op.execute(text(sql.replace(":", r"\:")))  # text() would read :name as a parameter
