"""Describe the statements of an optimistic transaction's commit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pgmem.core.op import Op, Retry, Row
from pgmem.leases.ops import Held, fence_params

T = TypeVar("T")

Kind = Literal["state", "stream"]
Name = tuple[Kind, str]

ACTION = "commit an optimistic transaction"


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


def check(names: Collection[Name], versions: Mapping[Name, int]) -> Op[None]:
    """Lock the entries among `names`, and undo the transaction if a version has changed.

    Args:
        names: everything that was read or is written.
        versions: the versions that were read.
    """
    keys = [name for kind, name in versions if kind == "state"]
    streams = [name for kind, name in versions if kind == "stream"]
    return Op(
        "optimistic_check",
        {
            "keys": [name for kind, name in names if kind == "state"],
            "read_keys": keys,
            "key_versions": _array([versions["state", key] for key in keys]),
            "streams": streams,
            "stream_versions": _array([versions["stream", stream] for stream in streams]),
        },
        lambda rows: None,
        ACTION,
        Retry.UNSAFE,
    )


def _array(numbers: Sequence[int]) -> str:
    # As text: psycopg chooses the type of a list of numbers by their size.
    return "{" + ",".join(map(str, numbers)) + "}"


def fence(held: Held) -> Op[None]:
    """Undo the transaction unless a lease is held until its end."""
    return Op("optimistic_fence", fence_params(held), lambda rows: None, ACTION, Retry.UNSAFE)


def store_receipt(key: str, ops: Sequence[Op[Any]], keys: Collection[str]) -> Op[None]:
    """Store the receipt of the transaction in its dedupe record.

    Args:
        key: the record's key.
        ops: the writes of the transaction.
        keys: the entries that they write.
    """
    return Op(
        "optimistic_receipt",
        {
            "key": key,
            "keys": sorted(keys),
            "streams": sorted({op.params["stream"] for op in ops if "key" not in op.params}),
            "writes": str(len(ops)),
        },
        lambda rows: None,
        ACTION,
        Retry.UNSAFE,
    )


_REFUSED = {
    "dedupe_record": "record.token IS NULL",
    "state_create": "entry.key IS NULL",
    "event_append_versioned": "done.positions IS NULL",
    "delivery_ack": "NOT judged.ok",
    "subscription_commit": "moved.token IS NULL",
}
"""When the last SELECT of a statement tells that it has written nothing."""


def guarded(op: Op[T]) -> Op[T]:
    """Return an op that undoes the transaction where it would answer with a conflict.

    Its COMMIT has been sent before the answer can be read.
    """
    refused = _REFUSED.get(op.statement)
    if refused is None:
        return op
    guard = f"CASE WHEN {refused} THEN {{schema}}.refuse_commit() END"
    return op._replace(fragments=(*op.fragments, ("commit", guard)))
