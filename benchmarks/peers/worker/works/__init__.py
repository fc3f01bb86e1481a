"""Each peer as its documentation says it runs best, in a module of its name.

They import their peer only when they are made: a process is one of them, and loads no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import eventsourcing, langgraph, pgqueuer, procrastinate
from .base import Payload, Work

WORKS: Mapping[str, Callable[[str, Payload], Work]] = {
    "eventsourcing": eventsourcing.Eventsourcing,
    "eventsourcing-functions": eventsourcing.with_functions,
    "langgraph": langgraph.Langgraph,
    "pgqueuer": pgqueuer.Producer,
    "pgqueuer-worker": pgqueuer.Worker,
    "procrastinate": procrastinate.Producer,
    "procrastinate-worker": procrastinate.Worker,
}
