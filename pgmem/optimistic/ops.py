"""Describe the statements of an optimistic transaction's commit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import check_name

Kind = Literal["state", "stream"]
Name = tuple[Kind, str]

KEY_PREFIX = "optimistic:"
"""Keeps the keys of transactions apart from those of `dedupe.run_once`."""
KEY_BYTES = 512 - len(KEY_PREFIX)

ACTION = "commit an optimistic transaction"


def check_key(key: str) -> str:
    """Check an idempotency key and return the key of its dedupe record.

    Raises:
        InvalidInput: it is no name of 1 to 501 bytes.
    """
    return KEY_PREFIX + check_name(key, "idempotency key", most=KEY_BYTES)


def lock(names: Collection[Name]) -> Op[None]:
    """Lock names until the transaction ends."""
    return Op(
        "optimistic_lock",
        {"names": [f"{kind}:{name}" for kind, name in names]},
        lambda rows: None,
        ACTION,
        Retry.UNSAFE,
    )


def compare(names: Collection[Name]) -> Op[dict[Name, int]]:
    """Lock the entries among `names`, and return all versions; 0 for an absent entry."""

    def parse(rows: Sequence[Row]) -> dict[Name, int]:
        found: dict[Name, int] = {(row[0], row[1]): row[2] for row in rows}
        return {name: found.get(name, 0) for name in names}

    return Op(
        "optimistic_compare",
        {
            "keys": [name for kind, name in names if kind == "state"],
            "streams": [name for kind, name in names if kind == "stream"],
        },
        parse,
        ACTION,
        Retry.UNSAFE,
    )
