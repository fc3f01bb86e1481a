"""What is swept beside the log: what is over, snapshots that exceed a rule, and dead rows.

The large tables have no index over the times (it would cost every write): they are walked by their
pages, some at a time, and only what is over is written to. The walk goes on where it ended.

Says what to run; `pgmem.retention.sweep` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pgmem.core.op import Op, Retry, Row

Vacuumed = Literal["dedupe", "events", "delayed", "state"]

Table = Literal["dedupe", "state", "leases", "limits"]
TABLES: Final[tuple[Table, ...]] = ("dedupe", "state", "leases", "limits")

EXPIRED_TYPE: Final = "state.expired"
"""The type of the event that tells of an entry's end."""

PAGES: Final = 1_000
"""So many pages of a table are looked through by one statement: 8 MB."""
MOST: Final = 1_000
"""So many rows at most are swept by one statement."""
IDLE: Final = 86_400.0
"""Seconds after which a lease or a limit that nobody uses goes."""
IDLE_SLOT: Final = 600.0
KEPT_SLOTS: Final = 4
"""Empty slots of a group that stay, so that a quiet moment does not cost it all of them."""
DEAD: Final = 5_000
"""Dead rows, and so many more for each live one, from which on a table is vacuumed: about when
autovacuum would. It looks once a minute only, in which a quick log outgrows what it keeps."""
DEAD_SHARE: Final = 0.2
VACUUMED_SIZE: Final = 2**30
"""Bytes above which a table is left to autovacuum: beside so much, a minute's dead rows are few."""


class Swept(NamedTuple):
    """What one statement has come to.

    Attributes:
        number: how many rows it swept.
        more: whether there may be more in the same pages.
        pages: of how many pages the table consists.
    """

    number: int
    more: bool
    pages: int


def sweep(table: Table, first: int, *, agent_id: str | None) -> Op[Swept]:
    """Sweep the rows of some pages.

    Args:
        table: of this table.
        first: the first page.
        agent_id: who says so in the events of entries that have ended.
    """

    def parse(rows: Sequence[Row]) -> Swept:
        number, pages = rows[0][:2]
        return Swept(number, number >= MOST, pages)

    return Op(
        f"sweep_{table}",
        {
            "first": f"({first},0)",
            "end": f"({first + PAGES},0)",
            "limit": MOST,
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


def sweep_slots() -> Op[int]:
    """Remove slots of groups that have long been empty; tells how many, at most `MOST`."""
    return Op(
        "sweep_slots",
        {"keep": KEPT_SLOTS, "idle": IDLE_SLOT, "limit": MOST},
        _number,
        "sweep empty slots",
        Retry.IDEMPOTENT,
    )


def sweep_folds() -> Op[int]:
    """Remove snapshots of folds by the rules; tells how many, at most `MOST`."""
    return Op("sweep_folds", {"limit": MOST}, _number, "thin the folds", Retry.IDEMPOTENT)


def sweep_snapshots() -> Op[int]:
    """Remove one copy of the state by the rules; tells whether there was one."""
    return Op("sweep_snapshots", {}, _number, "thin the copies of the state", Retry.IDEMPOTENT)


def vacuum_due() -> Op[list[Vacuumed]]:
    """Which tables are to be vacuumed now, rather than when autovacuum next looks."""
    return Op(
        "vacuum_due",
        {"dead": DEAD, "share": DEAD_SHARE, "size": VACUUMED_SIZE},
        lambda rows: [row[0] for row in rows],
        "look for dead rows",
    )


def vacuum(table: Vacuumed) -> Op[None]:
    """Vacuum a table: outside of any transaction, and it may take seconds."""
    return Op(
        "vacuum_table", {}, lambda _: None, f"vacuum {table}", fragments=(("vacuumed", table),)
    )
