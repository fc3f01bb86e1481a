"""${message}.

Frozen: it imports nothing of pgmem. Every name is qualified with the schema.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date.date()}
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

UPGRADE: tuple[str, ...] = ()
DOWNGRADE: tuple[str, ...] = ()


def upgrade() -> None:
    """What it adds."""
    _run(UPGRADE)


def downgrade() -> None:
    """What it takes back."""
    _run(DOWNGRADE)


def _run(statements: tuple[str, ...]) -> None:
    schema = f'"{context.get_context().opts["version_table_schema"]}"'  # checked by env.py
    for statement in statements:
        sql = statement.strip().replace("{schema}", schema)
        op.execute(text(sql.replace(":", r"\:")))  # text() would read :name as a parameter
