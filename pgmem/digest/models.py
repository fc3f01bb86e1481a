"""Models of a digest: changed entries, new events, and the text of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgmem.events.models import RecordedEvent
from pgmem.state.fields import FieldChange


class ChangedEntry(NamedTuple):
    """A state entry that changed, all its changes merged into one.

    Attributes:
        key: the entry's key.
        before: its value before the first change; None if there was none.
        after: its value after the last change; None if there is none any more.
        existed: True if there was an entry before.
        exists: True if there is one now: it was neither deleted, nor has it expired.
        fields: the fields that differ. Empty if the changes have undone each other.
        changes: the number of changes.
        version: the entry's version after the last change.
        position: the position of the last change.
        agents: the agents that changed it, sorted.
        certain: False if the value before is not in the log: it was written with `record=False`, or
            retention has removed it. `before` is then None.
    """

    key: str
    before: Any
    after: Any
    existed: bool
    exists: bool
    fields: Sequence[FieldChange]
    changes: int
    version: int
    position: int
    agents: Sequence[str]
    certain: bool = True


class StreamNews(NamedTuple):
    """The new events of a stream.

    Attributes:
        stream: the stream's name.
        events: the newest ones, at most 100, newest first.
        total: how many there are.
    """

    stream: str
    events: Sequence[RecordedEvent]
    total: int


class Digest(NamedTuple):
    """The changes of a memory since a position.

    Attributes:
        since: the position that the digest begins after.
        position: the position that it ends with. Give it as `since` the next time.
        entries: the entries that changed, newest change first; at most the newest 10,000.
        streams: the streams with new events, newest first.
        text: all of it as text for a prompt, within the budget.
        entries_left_out: how many of the entries that changed are not in the text.
        events_left_out: how many of the events are not in the text.
    """

    since: int
    position: int
    entries: Sequence[ChangedEntry]
    streams: Sequence[StreamNews]
    text: str
    entries_left_out: int
    events_left_out: int
