"""What folds take and give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pgmem.events.models import RecordedEvent

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """How events add up to a value.

    Attributes:
        name: names its snapshots.
        initial: makes the value before any event.
        apply: takes the value and the next event, gives the next value; it may change the value
            that it was given and return it.
        version: raise it with every change of `initial`, `apply` or the filter: snapshots of
            another version are never read.
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
    """A fold's value and the position that it holds for: every event up to it is in."""

    value: S
    position: int
