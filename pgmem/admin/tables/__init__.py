"""pgmem's tables as SQLAlchemy Core objects, and the names and limits that go with them.

For joins in users' queries, for `alembic` autogenerate (`include_object`), and as the yardstick
that the migrated database is measured against (`pgmem.migrate.check`, the drift test). It makes
no connection, and imports neither alembic nor the rest of pgmem but the errors. The migrations
do not import it: they are frozen, this follows the newest revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table

from pgmem.admin.tables import following, importing, memory, sharing
from pgmem.core.names import DEFAULT_SCHEMA, VERSION_TABLE, check_schema_name


@dataclass(frozen=True)
class Tables:
    """The tables of one schema; `metadata` holds them and everything that belongs to them."""

    schema: str
    metadata: MetaData
    events: Table
    state: Table
    dedupe: Table
    consumers: Table
    trimmed: Table
    groups: Table
    deliveries: Table
    parked: Table
    dead_letters: Table
    leases: Table
    limits: Table
    policies: Table
    imports: Table
    fold_snapshots: Table
    state_snapshots: Table
    state_snapshot_entries: Table
    meta: Table
    pgmem_version: Table


def tables(schema: str = DEFAULT_SCHEMA) -> Tables:
    """The tables of `schema`; the same objects for the same name.

    ``t = tables(); select(t.state.c.value).join(orders, orders.c.key == t.state.c.key)``

    To write, use `Memory`: it keeps the versions, the events and the entries in step.

    Raises:
        InvalidInput: the schema name cannot be used.
    """
    return build(check_schema_name(schema))


@lru_cache(maxsize=64)
def build(schema: str) -> Tables:
    """`tables` without the check of the name: for ``pg_temp``, with which `migrate.check` works."""
    metadata = MetaData(schema=schema)
    return Tables(
        schema=schema,
        metadata=metadata,
        events=memory.events(metadata),
        state=memory.state(metadata),
        dedupe=memory.dedupe(metadata),
        consumers=following.consumers(metadata),
        trimmed=following.trimmed(metadata),
        groups=sharing.groups(metadata),
        deliveries=sharing.deliveries(metadata),
        parked=sharing.parked(metadata),
        dead_letters=sharing.dead_letters(metadata),
        leases=sharing.leases(metadata),
        limits=sharing.limits(metadata),
        policies=sharing.policies(metadata),
        imports=importing.imports(metadata),
        fold_snapshots=memory.fold_snapshots(metadata),
        state_snapshots=memory.state_snapshots(metadata),
        state_snapshot_entries=memory.state_snapshot_entries(metadata),
        meta=memory.meta(metadata),
        pgmem_version=Table(
            VERSION_TABLE,
            metadata,
            Column("version_num", String(32), nullable=False),
            PrimaryKeyConstraint("version_num", name="pgmem_version_pkc"),
        ),
    )


def include_object(schema: str = DEFAULT_SCHEMA) -> Callable[..., bool]:
    """A filter for a team's own alembic, so that autogenerate leaves pgmem's tables alone.

    ``context.configure(…, include_object=include_object())``

    It refuses everything in pgmem's schema, and, where that schema is on the search_path (then
    alembic sees its tables without a schema), the tables that have a name and the columns of
    pgmem's. A table of yours that is also called `events` stays yours; only while it is still to
    be made, and pgmem's is on the search_path, alembic takes the one for the other, and it is
    left out. Best keep pgmem's schema off the search_path of migrations. To combine this with a
    filter of your own, call both.

    Args:
        schema: the schema that pgmem lives in.

    Raises:
        InvalidInput: the schema name cannot be used.
    """
    check_schema_name(schema)

    def include(
        object_: object, name: str | None, type_: str, reflected: bool, compare_to: object
    ) -> bool:
        table = object_ if type_ == "table" else getattr(object_, "table", None)
        if not isinstance(table, Table):
            return True
        if table.schema is not None:
            return table.schema != schema
        if type_ == "table" and not reflected:  # the team's; against what is it compared?
            return not (isinstance(compare_to, Table) and _looks_like_pgmems(compare_to))
        return not _looks_like_pgmems(table)

    return include


def _looks_like_pgmems(table: Table) -> bool:
    columns = TABLE_COLUMNS.get(table.name)
    return columns is not None and columns <= set(table.columns.keys())


TABLE_COLUMNS: Final = {
    table.name: frozenset(c.name for c in table.columns if "since" not in c.info)
    for table in tables().metadata.tables.values()
}
"""The columns that each table has at any revision: one not migrated yet is pgmem's, too."""
