"""The supervisor of a run is woken for each handler that begins."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from pgmem._sync.groups.clock import Clock
from pgmem._sync.groups.supervisor import Supervisor


class Member:
    """A member as the supervisor reads it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.current = None
        self.waiting, self.done = (), ()
        self.begun_at = self.done_at = self.renewed_at = 0.0


class StandingClock(Clock):
    """Stands at 0, and notes what the supervisor would wait for."""

    def __init__(self):
        self.waits = []

    def now(self):
        return 0.0

    def wait(self, wakeup, seconds):
        self.waits.append((seconds, wakeup.called))
        self.supervisor.end()
        return True


class Run:
    """A run whose member begins a handler after the supervisor has looked at it."""

    def __init__(self, clock):
        self.context = SimpleNamespace(clock=clock)
        self.options = SimpleNamespace(lease=30.0, max_runtime=3600.0)
        self.member = Member()

    @property
    def members(self):
        yield self.member
        self.member.current = "an event"
        self.supervisor.look(soon=False)


def test_a_handler_that_begins_while_the_next_renewal_is_computed_wakes_it():
    clock = StandingClock()
    run = Run(clock)
    run.supervisor = clock.supervisor = Supervisor(run)
    run.supervisor.run()
    assert clock.waits == [(None, True)], "else nothing renews the lease of the handler"
