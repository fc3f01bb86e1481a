"""What the fold verbs take and return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pgmem.events.models import RecordedEvent

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """How to compute a value from events.

    Attributes:
        name: the name of the fold's snapshots.
        initial: returns the value before any event.
        apply: takes the value and the next event and returns the next value. It may change the
            value that it was given and return it.
        version: raise it with every change of `initial`, `apply` or the selection. A snapshot of
            another version is never used.
        stream: fold only this stream; None for the whole log.
        type: fold only events of this type.
    """

    name: str
    initial: Callable[[], S]
    apply: Callable[[S, RecordedEvent], S]
    version: int = 1
    stream: str | None = None
    type: str | None = None


class Folded(NamedTuple, Generic[S]):
    """The value of a fold.

    Attributes:
        value: the value.
        position: every selected event up to this position is in the value.
    """

    value: S
    position: int
