"""Snapshots: of folds, and of the whole state.

Says what to run for each verb; `pgmem.folds.verbs` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from pgmem.core.encoding import decode, decoder, encode
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import check_count, check_name, check_prefix
from pgmem.errors import NotFound
from pgmem.events.codec import Codec
from pgmem.folds.models import Folded
from pgmem.state.models import StateEntry, StateSnapshot
from pgmem.state.ops import DELETED_TYPE, RESTORED_TYPE

MAX_FOLD_VERSION = 2**31 - 1


def save(name: str, value: Any, *, position: int, fold_version: int, max_bytes: int) -> Op[bool]:
    """Keep a fold's value; tells whether it was new."""
    return Op(
        "fold_save",
        {
            "name": check_name(name, "snapshot name"),
            "version": check_count(
                fold_version, "fold_version", minimum=1, maximum=MAX_FOLD_VERSION
            ),
            "position": check_count(position, "position", minimum=0),
            "value": encode(value, "fold value", limit=max_bytes),
        },
        lambda rows: bool(rows[0][0]),
        f"save the snapshot {name!r}",
        Retry.IDEMPOTENT,
    )


def load(
    name: str, *, fold_version: int, model: type[BaseModel] | None = None
) -> Op[Folded[Any] | None]:
    """The newest value of a fold in one version of it."""
    value_of = decoder(model, "fold value")
    return Op(
        "fold_load",
        {
            "name": check_name(name, "snapshot name"),
            "version": check_count(
                fold_version, "fold_version", minimum=1, maximum=MAX_FOLD_VERSION
            ),
        },
        lambda rows: Folded(value_of(rows[0][1]), rows[0][0]) if rows else None,
        f"load the snapshot {name!r}",
    )


def take(name: str | None, *, position: int) -> Op[StateSnapshot | None]:
    """Copy the whole state as it was at a final position.

    None if the log does not tell any more what an entry was then, which has changed since.
    """
    if name is not None:
        check_name(name, "snapshot name")
    return Op(
        "snapshot_take",
        {"name": name, "position": position},
        lambda rows: StateSnapshot._make(rows[0][:5]) if rows else None,
        "take a snapshot of the state",
        Retry.UNSAFE,
    )


def list_snapshots(name: str | None, *, limit: int) -> Op[list[StateSnapshot]]:
    """The snapshots of the whole state, newest first."""
    if name is not None:
        check_name(name, "snapshot name")
    return Op(
        "snapshot_list",
        {"name": name, "limit": check_count(limit, "limit", minimum=1, maximum=100_000)},
        lambda rows: [StateSnapshot._make(row) for row in rows],
        "list the snapshots",
    )


def get(snapshot_id: int) -> Op[StateSnapshot]:
    """One snapshot of the whole state.

    Raises (from `parse`):
        NotFound: there is none of that id.
    """

    def parse(rows: Sequence[Row]) -> StateSnapshot:
        if not rows:
            raise NotFound(
                f"there is no snapshot {snapshot_id}: snapshots.list() tells which there are"
            )
        return StateSnapshot._make(rows[0])

    return Op(
        "snapshot_get",
        {"id": check_count(snapshot_id, "snapshot id", minimum=1)},
        parse,
        f"find the snapshot {snapshot_id}",
    )


def entries(snapshot_id: int, *, after: str, limit: int) -> Op[list[StateEntry]]:
    """What a snapshot holds, in the order of the keys."""
    return Op(
        "snapshot_entries",
        {
            "id": check_count(snapshot_id, "snapshot id", minimum=1),
            "after": check_prefix(after, "after"),
            "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        },
        lambda rows: [
            StateEntry(key, decode(value), version, taken_at, expires_at)
            for key, value, version, taken_at, expires_at in rows
        ],
        f"read the snapshot {snapshot_id}",
    )


def restore(snapshot_id: int, codec: Codec) -> Op[tuple[int, int]]:
    """Make the state what a snapshot holds; tells how many entries were put and removed."""
    return Op(
        "snapshot_restore",
        {
            "id": check_count(snapshot_id, "snapshot id", minimum=1),
            "agent_id": codec.agent_id,
            "restored_type": RESTORED_TYPE,
            "deleted_type": DELETED_TYPE,
        },
        lambda rows: (rows[0][0], rows[0][1]),
        f"restore the snapshot {snapshot_id}",
        # A second run would change nothing more, but would tell other numbers.
        Retry.UNSAFE,
    )
