"""Models of folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pgmem.events.filter import Names
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
        stream: only this stream, or only these; None for the whole log.
        type: only events of this type, or of these.
        prefix: only streams whose name begins with it. Not together with `stream`.
        agent_id: only events of this agent, or of these.
        run_id: only events of this run, or of these.
        cause: only events whose cause is the event at this position.
    """

    name: str
    initial: Callable[[], S]
    apply: Callable[[S, RecordedEvent], S]
    version: int = 1
    stream: Names | None = None
    type: Names | None = None
    prefix: str | None = None
    agent_id: Names | None = None
    run_id: Names | None = None
    cause: int | None = None


class Folded(NamedTuple, Generic[S]):
    """The value of a fold.

    Attributes:
        value: the value.
        position: every selected event up to this position is in the value.
    """

    value: S
    position: int
