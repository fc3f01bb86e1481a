"""Remove expired rows and snapshots that exceed a policy, and vacuum tables.

The large tables have no index on their times, which would slow down every write. They are walked by
their pages, a few at a time, and only expired rows are written. The next sweep goes on where the
last one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pgmem.core.op import Op, Retry, Row

Vacuumed = Literal["dedupe", "events", "delayed", "state"]

Table = Literal["dedupe", "state", "leases", "limits"]
TABLES: Final[tuple[Table, ...]] = ("dedupe", "state", "leases", "limits")

EXPIRED_TYPE: Final = "state.expired"
"""The type of the event of an expired entry."""

PAGES: Final = 1_000
"""Pages of a table that one statement reads: 8 MB."""
MAX_ROWS: Final = 1_000
"""Rows that one statement removes at most."""
IDLE: Final = 86_400.0
"""Seconds after which an unused lease or limit is removed."""
IDLE_BATCH: Final = 600.0
"""Seconds after which an empty batch row of a group is removed."""
KEPT_BATCHES: Final = 4
"""Empty batch rows that each group keeps, so that it need not insert them again after a pause."""
DEAD: Final = 5_000
"""Dead rows from which on a table is vacuumed, plus `DEAD_SHARE` of its live rows: about the
threshold of autovacuum, which runs once a minute. A busy log outgrows what it keeps in that."""
DEAD_SHARE: Final = 0.2
VACUUMED_SIZE: Final = 2**30
"""Bytes above which a table is left to autovacuum: a minute's dead rows are a small part of it."""


class Swept(NamedTuple):
    """The result of one statement.

    Attributes:
        number: the number of removed rows.
        more: True if the same pages may have more.
        pages: the number of pages of the table.
    """

    number: int
    more: bool
    pages: int


class Due(NamedTuple):
    """The work that is due in a pass of maintenance.

    Attributes:
        times: trims whose process died have no time yet.
        policies: there are policies to apply.
        tables: the tables to sweep.
        batches: groups have more empty rows than they keep.
        vacuum: tables have many dead rows.
    """

    times: bool
    policies: bool
    tables: Sequence[Table]
    batches: bool
    vacuum: bool


def read_due() -> Op[Due]:
    """Read what a pass of maintenance has to do."""

    return Op(
        "maintenance_due",
        {"pages": PAGES, "idle": IDLE, "keep": KEPT_BATCHES, **_vacuum_limits()},
        lambda rows: Due(*rows[0]),
        "find what maintenance has to do",
    )


def sweep(table: Table, first: int, *, agent_id: str | None) -> Op[Swept]:
    """Remove the expired rows of some pages.

    Args:
        table: the table.
        first: the first page.
        agent_id: the writer of the events of expired entries.
    """

    def parse(rows: Sequence[Row]) -> Swept:
        number, pages = rows[0][:2]
        return Swept(number, number >= MAX_ROWS, pages)

    return Op(
        f"sweep_{table}",
        {
            "first": f"({first},0)",
            "end": f"({first + PAGES},0)",
            "limit": MAX_ROWS,
            "idle": IDLE,
            "type": EXPIRED_TYPE,
            "agent_id": agent_id,
        },
        parse,
        f"sweep {table}",
        Retry.IDEMPOTENT,
    )


def _number(rows: Sequence[Row]) -> int:
    return int(rows[0][0])


def sweep_batches() -> Op[int]:
    """Remove idle, empty batch rows of groups, at most `MAX_ROWS`."""
    return Op(
        "sweep_batches",
        {"keep": KEPT_BATCHES, "idle": IDLE_BATCH, "limit": MAX_ROWS},
        _number,
        "sweep empty batches",
        Retry.IDEMPOTENT,
    )


def sweep_folds() -> Op[int]:
    """Remove snapshots of folds that exceed their policy, at most `MAX_ROWS`."""
    return Op("sweep_folds", {"limit": MAX_ROWS}, _number, "sweep the folds", Retry.IDEMPOTENT)


def sweep_snapshots() -> Op[int]:
    """Remove one snapshot of the state that exceeds its policy."""
    return Op("sweep_snapshots", {}, _number, "sweep the snapshots", Retry.IDEMPOTENT)


def vacuum_due() -> Op[list[Vacuumed]]:
    """Return the tables to vacuum now, without waiting for autovacuum."""
    return Op(
        "vacuum_due",
        _vacuum_limits(),
        lambda rows: [row[0] for row in rows],
        "find tables with dead rows",
    )


def _vacuum_limits() -> dict[str, float]:
    return {"dead": DEAD, "share": DEAD_SHARE, "size": VACUUMED_SIZE}


def vacuum(table: Vacuumed) -> Op[None]:
    """Vacuum a table. It runs outside of any transaction and may take seconds."""
    return Op(
        "vacuum_table", {}, lambda _: None, f"vacuum {table}", fragments=(("vacuumed", table),)
    )
