"""One run from its start to its summary: gateway, agents, the kill, the wait for the end.

Prints nothing: whoever watches is told (`Watcher`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import psycopg

from pgmem import Memory, migrate
from pgmem.demo import bank
from pgmem.demo.gateway import SENDERS, Gateway
from pgmem.demo.run import ROLES, SCHEMA, Role, Run
from pgmem.demo.scenario import Scenario
from pgmem.demo.summary import Summary, summarize
from pgmem.demo.supervisor import DemoFailed, Supervisor

LOOK_EVERY: Final = 0.25
EXTRA_SECONDS: Final = 60.0
"""What a run may take beyond three times the time of its sendings."""


class Watcher(Protocol):
    """Is told how a run goes."""

    def progress(self, figures: Mapping[str, Any]) -> None:
        """The counts of `sql/progress.sql`, some times a second."""

    def moment(self, text: str) -> None:
        """Something worth a line has happened."""


def conduct(
    url: str, run: Run, scenario: Scenario, *, victim: Role | None, watcher: Watcher
) -> Summary:
    """Make one run and say what became of it.

    Args:
        url: the database; the demo's schemas are made in it if they are missing.
        run: its names and its mode.
        scenario: what is sent.
        victim: the agent to kill half way; None for none.
        watcher: is told how it goes.

    Raises:
        DemoFailed: the agents would not run, or the database stopped answering.
        PgmemError: the database cannot be used.
    """
    migrate.upgrade(url, schema=SCHEMA)
    try:
        return _conduct(url, run, scenario, victim, watcher)
    except psycopg.Error as error:
        # From the demo's own statements: pgmem's own errors are typed.
        reason = error.diag.message_primary or type(error).__name__
        raise DemoFailed(f"the database refused a statement of the demo's own: {reason}") from error


def _conduct(
    url: str, run: Run, scenario: Scenario, victim: Role | None, watcher: Watcher
) -> Summary:
    with Memory(url, schema=SCHEMA, agent_id="supervisor", pool=(1, SENDERS + 2)) as memory:
        bank.prepare(memory, run, scenario)
        with Supervisor(memory, url, run) as supervisor, Gateway(memory, run, scenario) as gateway:
            supervisor.start_all()
            watcher.moment(f"{len(ROLES)} agents run, each a process of its own")
            gateway.start()
            deadline = time.monotonic() + 3 * scenario.sendings[-1].at + EXTRA_SECONDS
            half = (len(scenario.sendings) + 1) // 2
            for figures in _looks(memory, run, gateway, deadline):
                watcher.progress(figures)
                if victim is not None and figures["sent"] >= half:
                    watcher.moment(supervisor.kill(victim))
                    victim = None
                for text in supervisor.tend():
                    watcher.moment(text)
                if figures["late"]:
                    watcher.moment(f"gave up waiting; events not worked off: {_backlog(figures)}")
        return summarize(memory, run)


def _looks(memory: Memory, run: Run, gateway: Gateway, deadline: float) -> Iterator[dict[str, Any]]:
    """Look at the run until all is worked off, or time is up."""
    while True:
        sent_all = gateway.finished()  # Asked before the look, so that the look has seen it all.
        began = time.monotonic()
        with memory.transaction() as tx:
            figures = bank.ask(tx.connection, "progress", run.sql_params())
        figures["late"] = time.monotonic() > deadline
        yield figures
        if (sent_all and not _backlog(figures)) or figures["late"]:
            return
        # Looking costs more the longer the log: leave the most of the time to the agents.
        time.sleep(max(LOOK_EVERY, 10 * (time.monotonic() - began)))


def _backlog(figures: Mapping[str, Any]) -> str:
    """What the agents have still to do; "" if nothing."""
    left = {role: figures[f"{role}_backlog"] for role in ROLES}
    return ", ".join(f"{role} {count}" for role, count in left.items() if count)
