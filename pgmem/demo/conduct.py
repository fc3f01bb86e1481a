"""Make one run, from the start of the agents to the summary. Reports to a `Watcher`."""

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

POLL_EVERY: Final = 0.25
"""Seconds between two polls of the progress, at least."""
EXTRA_SECONDS: Final = 60.0
"""Seconds that a run may take beyond three times the duration of its sendings."""


class Watcher(Protocol):
    """Shows the progress of a run."""

    def progress(self, figures: Mapping[str, Any]) -> None:
        """Show the counts of `sql/progress.sql`. Called several times a second."""

    def moment(self, text: str) -> None:
        """Show a line about something that has just happened."""


def conduct(
    url: str, run: Run, scenario: Scenario, *, victim: Role | None, watcher: Watcher
) -> Summary:
    """Make one run and return its summary.

    Args:
        url: The database. The demo's schemas are made if they are missing.
        run: The names and the mode of the run.
        scenario: What is sent.
        victim: The agent to kill half way; None for none.
        watcher: Shows the progress.

    Raises:
        DemoFailed: The agents did not run, or the database stopped answering.
        PgmemError: The database cannot be used.
    """
    migrate.upgrade(url, schema=SCHEMA)
    try:
        return _conduct(url, run, scenario, victim, watcher)
    except psycopg.Error as error:
        # Errors of pgmem's own statements are typed. This one is of the demo's statements.
        reason = error.diag.message_primary or type(error).__name__
        raise DemoFailed(f"the database refused a statement of the demo: {reason}") from error


def _conduct(
    url: str, run: Run, scenario: Scenario, victim: Role | None, watcher: Watcher
) -> Summary:
    with Memory(url, schema=SCHEMA, agent_id="supervisor", pool=(1, SENDERS + 2)) as memory:
        bank.prepare(memory, run, scenario)
        with Supervisor(memory, url, run) as supervisor, Gateway(memory, run, scenario) as gateway:
            supervisor.start_all()
            watcher.moment(f"{len(ROLES)} agents run, each in a process of its own")
            gateway.start()
            deadline = time.monotonic() + 3 * scenario.sendings[-1].at + EXTRA_SECONDS
            half = (len(scenario.sendings) + 1) // 2
            for figures in _polls(memory, run, gateway, deadline):
                watcher.progress(figures)
                if victim is not None and figures["sent"] >= half:
                    watcher.moment(supervisor.kill(victim))
                    victim = None
                for text in supervisor.restart_ended():
                    watcher.moment(text)
                if figures["late"]:
                    watcher.moment(f"gave up waiting; events not handled: {_backlog(figures)}")
        return summarize(memory, run)


def _polls(memory: Memory, run: Run, gateway: Gateway, deadline: float) -> Iterator[dict[str, Any]]:
    """Poll the progress until everything is handled or the deadline has passed."""
    while True:
        sent_all = gateway.finished()  # read first, so that this poll sees all of it
        began = time.monotonic()
        with memory.transaction() as tx:
            figures = bank.ask(tx.connection, "progress", run.sql_params())
        figures["late"] = time.monotonic() > deadline
        yield figures
        if (sent_all and not _backlog(figures)) or figures["late"]:
            return
        # A poll takes longer as the log grows. Leave most of the time to the agents.
        time.sleep(max(POLL_EVERY, 10 * (time.monotonic() - began)))


def _backlog(figures: Mapping[str, Any]) -> str:
    """Return the number of unhandled events of each agent as text; "" if there are none."""
    left = {role: figures[f"{role}_backlog"] for role in ROLES}
    return ", ".join(f"{role} {count}" for role, count in left.items() if count)
