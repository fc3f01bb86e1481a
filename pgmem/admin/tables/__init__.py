"""The tables of pgmem as SQLAlchemy Core objects.

For joins in users' queries, for `alembic` autogenerate (`include_object`), and as the description
that a migrated database is compared with (`pgmem.migrate.check`, the drift test). This package
makes no connection. The migrations do not import it: they are frozen, it follows the newest
revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import MetaData, Table

from pgmem.admin.tables import (
    dedupe,
    events,
    folds,
    groups,
    history,
    imports,
    leases,
    meta,
    retention,
    state,
)
from pgmem.core.names import DEFAULT_SCHEMA, check_schema_name


@dataclass(frozen=True)
class Tables:
    """The tables of one schema; `metadata` holds them with their indexes and sequences."""

    schema: str
    metadata: MetaData
    events: Table
    state: Table
    dedupe: Table
    subscriptions: Table
    groups: Table
    batches: Table
    delayed: Table
    dead_letters: Table
    leases: Table
    limits: Table
    policies: Table
    trimmed: Table
    fold_snapshots: Table
    state_snapshots: Table
    state_snapshot_entries: Table
    imports: Table
    epochs: Table
    meta: Table
    pgmem_version: Table


def tables(schema: str = DEFAULT_SCHEMA) -> Tables:
    """Return the tables of `schema`; the same objects for the same name.

    ``t = tables(); select(t.state.c.value).join(orders, orders.c.key == t.state.c.key)``

    To write, use `Memory`: it keeps versions, events and entries consistent.

    Raises:
        InvalidInput: the schema name cannot be used.
    """
    return build(check_schema_name(schema))


@lru_cache(maxsize=64)
def build(schema: str) -> Tables:
    """Build the tables of `schema` without a check of its name: `migrate.check` uses pg_temp."""
    metadata = MetaData(schema=schema)
    return Tables(
        schema=schema,
        metadata=metadata,
        events=events.events(metadata),
        state=state.state(metadata),
        dedupe=dedupe.dedupe(metadata),
        subscriptions=events.subscriptions(metadata),
        groups=groups.groups(metadata),
        batches=groups.batches(metadata),
        delayed=groups.delayed(metadata),
        dead_letters=groups.dead_letters(metadata),
        leases=leases.leases(metadata),
        limits=leases.limits(metadata),
        policies=retention.policies(metadata),
        trimmed=retention.trimmed(metadata),
        fold_snapshots=folds.fold_snapshots(metadata),
        state_snapshots=state.state_snapshots(metadata),
        state_snapshot_entries=state.state_snapshot_entries(metadata),
        imports=imports.imports(metadata),
        epochs=history.epochs(metadata),
        meta=meta.meta(metadata),
        pgmem_version=meta.pgmem_version(metadata),
    )


def include_object(schema: str = DEFAULT_SCHEMA) -> Callable[..., bool]:
    """Return a filter for a team's own alembic, so that autogenerate ignores pgmem's tables.

    ``context.configure(…, include_object=include_object())``

    The filter refuses everything in pgmem's schema. If that schema is on the search_path, alembic
    sees its tables without a schema: then the filter refuses tables that have the name and the
    columns of pgmem's. A table of yours that is also called `events` stays yours, with one
    exception: while it is still to be created, and pgmem's is on the search_path, alembic compares
    the two, and the table is left out. So keep pgmem's schema off the search_path of migrations.
    To combine this with a filter of your own, call both.

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
        if type_ == "table" and not reflected:  # the team's own table
            return not (isinstance(compare_to, Table) and _has_columns_of_pgmem(compare_to))
        return not _has_columns_of_pgmem(table)

    return include


def _has_columns_of_pgmem(table: Table) -> bool:
    columns = TABLE_COLUMNS.get(table.name)
    return columns is not None and columns <= set(table.columns.keys())


TABLE_COLUMNS: Final = {
    table.name: frozenset(c.name for c in table.columns)
    for table in tables().metadata.tables.values()
}
