"""Which statement each verb of the snapshots runs, and how its rows become the result."""

from __future__ import annotations

from collections.abc import Sequence

from pgmem.core.encoding import decode
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import check_count, check_name, check_prefix
from pgmem.errors import NotFound
from pgmem.events.codec import Codec
from pgmem.state.models import SnapshotEntry, StateSnapshot
from pgmem.state.read_ops import MAX_PAGE
from pgmem.state.write_ops import DELETED_TYPE

RESTORED_TYPE = "state.restored"


def take(name: str | None, *, position: int) -> Op[StateSnapshot | None]:
    """Copy the whole state as it was at a stable position.

    The result is None if an entry has changed since and the log does not hold what it was before.
    """
    return Op(
        "snapshot_take",
        {"name": _check_optional_name(name), "position": position},
        lambda rows: StateSnapshot._make(rows[0][:5]) if rows else None,
        "take a snapshot of the state",
        Retry.UNSAFE,
        bounded=False,
    )


def list_snapshots(name: str | None, *, limit: int | None) -> Op[list[StateSnapshot]]:
    """Read which snapshots there are, newest first."""
    return Op(
        "snapshot_list",
        {
            "name": _check_optional_name(name),
            "limit": limit
            if limit is None
            else check_count(limit, "limit", minimum=1, maximum=MAX_PAGE),
        },
        lambda rows: [StateSnapshot._make(row) for row in rows],
        "list the snapshots of the state",
    )


def get(snapshot_id: int) -> Op[StateSnapshot]:
    """Read the description of one snapshot.

    Raises (from `parse`):
        NotFound: there is none with this id.
    """

    def parse(rows: Sequence[Row]) -> StateSnapshot:
        if not rows:
            raise NotFound(
                f"there is no snapshot {snapshot_id}: state.snapshots.list() returns all of them"
            )
        return StateSnapshot._make(rows[0])

    return Op(
        "snapshot_get",
        {"id": _check_id(snapshot_id)},
        parse,
        f"find the snapshot {snapshot_id}",
    )


def entries(snapshot_id: int, *, after: str, limit: int) -> Op[list[SnapshotEntry]]:
    """Read a page of a snapshot, in the order of the keys."""
    return Op(
        "snapshot_entries",
        {
            "id": _check_id(snapshot_id),
            "after": check_prefix(after, "after"),
            "limit": check_count(limit, "limit", minimum=1, maximum=MAX_PAGE),
        },
        lambda rows: [SnapshotEntry(row[0], decode(row[1]), *row[2:5]) for row in rows],
        f"read the snapshot {snapshot_id}",
    )


def restore(snapshot_id: int, codec: Codec) -> Op[tuple[int, int]]:
    """Make the state equal to a snapshot; the result is the numbers of writes and deletes."""
    agent_id, metadata = codec.attribute()
    metadata = {**(metadata or {}), "snapshot": _check_id(snapshot_id)}
    return Op(
        "snapshot_restore",
        {
            "id": snapshot_id,
            "agent_id": agent_id,
            "metadata": codec.encode(metadata, "metadata"),
            "restored_type": RESTORED_TYPE,
            "deleted_type": DELETED_TYPE,
        },
        lambda rows: (rows[0][0], rows[0][1]),
        f"restore the snapshot {snapshot_id}",
        # A second run would change nothing, but would return other numbers.
        Retry.UNSAFE,
        bounded=False,
    )


def delete(snapshot_id: int) -> Op[bool]:
    """Delete a snapshot; the result is True if there was one."""
    return Op(
        "snapshot_delete",
        {"id": _check_id(snapshot_id)},
        lambda rows: bool(rows[0][0]),
        f"delete the snapshot {snapshot_id}",
        Retry.UNSAFE,
    )


def _check_id(snapshot_id: int) -> int:
    return check_count(snapshot_id, "snapshot id", minimum=1)


def _check_optional_name(name: str | None) -> str | None:
    return None if name is None else check_name(name, "snapshot name")
