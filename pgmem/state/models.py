"""What there is beside the log: state, work that is done once, folds and copies of the state."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class StateEntry(NamedTuple):
    """The latest state under a key.

    Attributes:
        key: its name.
        value: the JSON value, or an instance of `model=`.
        version: number of changes; +1 with each, also across delete and create.
        updated_at: when it was last written (the server's clock).
        expires_at: when it will expire; None if never.
        position: the position of the event that was written with it; None when read, and with
            `record=False`.
    """

    key: str
    value: Any
    version: int
    updated_at: datetime
    expires_at: datetime | None = None
    position: int | None = None


class StateSnapshot(NamedTuple):
    """A copy of the whole state at one position of the log."""

    id: int
    name: str | None
    position: int
    entries: int
    taken_at: datetime
