"""Statements that read back, or delete, what imports and the work done here have written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgmem.core.encoding import decode
from pgmem.core.op import Op, Retry
from pgmem.core.validation import check_count, check_name, check_prefix
from pgmem.redis.batches import ENTRY_TYPE, OWNER
from pgmem.redis.models import KnownEntry, KnownRecord


def known_entries(*, after: str, limit: int, keys: Sequence[str] | None) -> Op[list[KnownEntry]]:
    """Return entries, and the origin of their latest change."""
    return Op(
        "import_known_entries",
        {"type": ENTRY_TYPE, **_page(after, limit, keys)},
        lambda rows: [
            KnownEntry(key, decode(value), version, ttl, decode(origin))
            for key, value, version, ttl, origin in rows
        ],
        "list entries and their origins",
        fragments=_among(keys),
    )


def known_records(*, after: str, limit: int, keys: Sequence[str] | None) -> Op[list[KnownRecord]]:
    """Return the dedupe records of work that is done."""
    return Op(
        "import_known_records",
        _page(after, limit, keys),
        lambda rows: [
            KnownRecord(
                key,
                decode(result),
                ttl,
                owner.removeprefix(OWNER) if owner and owner.startswith(OWNER) else None,
            )
            for key, result, owner, ttl in rows
        ],
        "list finished work",
        fragments=_among(keys),
    )


def delete_records(found: Sequence[KnownRecord]) -> Op[int]:
    """Delete records that an import has made. Return their number."""
    mine = [known for known in found if known.origin is not None]
    return Op(
        "import_delete_records",
        {"keys": [known.key for known in mine], "owners": [f"{OWNER}{k.origin}" for k in mine]},
        lambda rows: int(rows[0][0]),
        f"delete {len(mine)} dedupe records",
        Retry.IDEMPOTENT,
    )


def _page(after: str, limit: int, keys: Sequence[str] | None) -> dict[str, Any]:
    return {
        "after": check_prefix(after, "after"),
        "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        "keys": None if keys is None else [check_name(key, "key") for key in keys],
    }


def _among(keys: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the condition on the keys. A parameter that may be NULL would rule out the index."""
    return (("among", "" if keys is None else "AND key = ANY (%(keys)s::text[])"),)
