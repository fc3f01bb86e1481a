"""Which statement each verb of the folds runs, and how its rows become the result."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pgmem.core.encoding import decoder
from pgmem.core.op import Op, Retry
from pgmem.core.validation import check_count, check_name
from pgmem.events.codec import Codec
from pgmem.folds.models import Folded

MAX_VERSION = 2**31 - 1


def save(name: str, value: Any, *, position: int, version: int, codec: Codec) -> Op[bool]:
    """Store a snapshot of a fold; the result is True if there was none at this position."""
    return Op(
        "fold_save",
        {
            "name": _check_name(name),
            "version": _check_version(version),
            "position": check_count(position, "position", minimum=0),
            "value": codec.encode(value, "fold value"),
        },
        lambda rows: bool(rows[0][0]),
        f"save the fold {name!r}",
        Retry.IDEMPOTENT,
    )


def load(
    name: str, *, version: int, model: type[BaseModel] | None = None
) -> Op[Folded[Any] | None]:
    """Read the newest snapshot of one version of a fold."""
    value_of = decoder(model, "fold value")
    return Op(
        "fold_load",
        {"name": _check_name(name), "version": _check_version(version)},
        lambda rows: Folded(value_of(rows[0][1]), rows[0][0]) if rows else None,
        f"load the fold {name!r}",
    )


def delete(name: str, *, version: int | None) -> Op[int]:
    """Delete the snapshots of a fold; the result is their number."""
    return Op(
        "fold_delete",
        {
            "name": _check_name(name),
            "version": None if version is None else _check_version(version),
        },
        lambda rows: int(rows[0][0]),
        f"delete the fold {name!r}",
        Retry.UNSAFE,
    )


def _check_name(name: str) -> str:
    return check_name(name, "fold name")


def _check_version(version: int) -> int:
    return check_count(version, "version", minimum=1, maximum=MAX_VERSION)
