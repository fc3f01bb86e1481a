"""Models of the state: entries, snapshots and the `KEEP` sentinel."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, Final, Generic, NamedTuple

from typing_extensions import TypeVar

T = TypeVar("T", default=Any)


class Keep(Enum):
    """The type of `KEEP`."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return self.value


KEEP: Final = Keep.KEEP
"""As `ttl=` of `compare_and_set` and `update`: leave the end of the entry as it is."""


class StateEntry(NamedTuple, Generic[T]):
    """The latest value under a key.

    Attributes:
        key: the entry's name.
        value: the JSON value, or an instance of `model=`.
        version: the number of changes. It grows by 1 with each, also across delete and create.
        updated_at: when the value was last written, by the server's clock.
        created_at: when the entry was created, or created again after a delete.
        expires_at: when the entry expires, or None if it does not.
        ttl: the lifetime in seconds that was last given, or None. `get(refresh=True)` renews by it.
        position: the position of the event that this write appended. None if it appended none,
            and for an entry that was read.
    """

    key: str
    value: T
    version: int
    updated_at: datetime
    created_at: datetime
    expires_at: datetime | None = None
    ttl: float | None = None
    position: int | None = None


class FieldBlame(NamedTuple):
    """The last change of one field of an entry's value, as `state.blame` finds it.

    Attributes:
        path: the field as a JSON path, such as "$.plan.steps[0]". "$" is the value itself.
        value: what it holds now.
        before: what it held before the change; None if it did not exist.
        existed: False if the change created the field.
        version: the entry's version after the change.
        position: the position of the event that records the change. None, like the version and all
            of the following, if the change is not in the log.
        type: the type of that event.
        agent_id: the agent that made the change, or None.
        run_id: the run of that agent, or None.
        cause: the position of the event that the change followed from, or None.
        recorded_at: when it was made, by the server's clock.
        certain: False if writes that are not in the log came just before the change: those of
            `record=False`, and those that retention has removed. One of them may have made it.
    """

    path: str
    value: Any
    before: Any
    existed: bool
    version: int | None = None
    position: int | None = None
    type: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    cause: int | None = None
    recorded_at: datetime | None = None
    certain: bool = True


class Copy(NamedTuple):
    """A copy of an entry, for the cache.

    Only of an entry that does not expire and whose next change will be in the log.

    Attributes:
        version: the entry's version.
        text: the value as JSON, because a caller may change the value that it gets.
        updated_at, created_at: as of the entry.
    """

    version: int
    text: str
    updated_at: datetime
    created_at: datetime


class SnapshotEntry(NamedTuple):
    """An entry in a snapshot of the state.

    Attributes:
        key, value, version, expires_at, ttl: as of the entry when the snapshot was taken.
    """

    key: str
    value: Any
    version: int
    expires_at: datetime | None
    ttl: float | None


class StateSnapshot(NamedTuple):
    """A copy of the whole state at one position of the log.

    Attributes:
        id: identifies the copy.
        name: the name that `take` was given, or None.
        position: the copy holds every recorded write up to this position and none after it.
        entries: the number of entries.
        taken_at: when it was taken, by the server's clock.
    """

    id: int
    name: str | None
    position: int
    entries: int
    taken_at: datetime
