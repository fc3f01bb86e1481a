"""Starts the agents' processes, kills one with `kill -9`, starts it again, and leaves none behind.

It talks to no agent: it looks into the database to see how far they are. An agent ends when its
standard input does (see `process`), so none outlives a supervisor, however that one ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Final, Self

from psycopg.conninfo import make_conninfo

from pgmem import Event, Memory
from pgmem.core.url import connection_string
from pgmem.demo.run import ROLES, Role, Run
from pgmem.errors import PgmemError

START_SECONDS: Final = 60.0
HUNT_SECONDS: Final = 1.0
MOST_CRASHES: Final = 3


class DemoFailed(PgmemError):
    """The demo could not run to its end."""


@dataclass
class Agent:
    """One agent's current process."""

    role: Role
    incarnation: int
    process: subprocess.Popen[bytes]
    complaints: IO[bytes]

    @property
    def application(self) -> str:
        """What its database sessions are called."""
        return application_name(self.role, self.incarnation)

    def last_words(self) -> str:
        """The last line that it wrote to stderr."""
        self.complaints.seek(0)
        lines = self.complaints.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")


def application_name(role: Role, incarnation: int) -> str:
    """What an agent's database sessions are called."""
    return f"pgmem demo {os.getpid()} {role}.{incarnation}"


class Supervisor:
    """The agents of one run. Leaving the block ends them all."""

    def __init__(self, memory: Memory, url: str, run: Run) -> None:
        self._memory = memory
        self._url = url
        self._run = run
        self._agents: dict[Role, Agent] = {}
        self._crashes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for agent in self._agents.values():
            if agent.process.stdin is not None:
                agent.process.stdin.close()
        patience = time.monotonic() + (8 if error is None else 2)
        for agent in self._agents.values():
            try:
                agent.process.wait(max(0.1, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                agent.process.kill()
                agent.process.wait()
            agent.complaints.close()

    def start_all(self) -> None:
        """Start every agent and wait until they follow.

        Raises:
            DemoFailed: one did not.
        """
        for role in ROLES:
            self._start(role, 1)
        deadline = time.monotonic() + START_SECONDS
        while self._memory.events.count(self._run.operations, type="agent.started") < len(ROLES):
            self.tend()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the agents did not start within {START_SECONDS:g} s")
            time.sleep(0.05)

    def _start(self, role: Role, incarnation: int) -> None:
        name = application_name(role, incarnation)
        conninfo = make_conninfo(connection_string(self._url), application_name=name)
        complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the agent
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [
                *(sys.executable, "-m", "pgmem.demo.process"),
                *(role, self._run.id, self._run.mode, str(incarnation)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env={**os.environ, "PGMEM_DATABASE_URL": conninfo},  # not in argv: `ps` shows that
            # A group of its own: Ctrl-C is the supervisor's business. Not a session of its own: if
            # the supervisor dies while it has the agent frozen, the kernel ends the frozen one.
            process_group=0,
        )
        self._agents[role] = Agent(role, incarnation, process, complaints)

    def tend(self) -> list[str]:
        """Start again what ended by itself; tells what was done.

        Raises:
            DemoFailed: it happens again and again.
        """
        done: list[str] = []
        for agent in list(self._agents.values()):
            if agent.process.poll() is None:
                continue
            self._crashes += 1
            words = agent.last_words()
            if self._crashes > MOST_CRASHES:
                raise DemoFailed(f"the {agent.role} ended {MOST_CRASHES} times; last: {words}")
            done.append(f"{agent.role} ended by itself ({words}), started again")
            self._replace(agent)
        return done

    def kill(self, role: Role) -> str:
        """`kill -9` an agent in the middle of its work and start another; tells what was done."""
        agent = self._agents[role]
        opened = self._catch_at_work(agent) if role == "processor" else 0
        agent.process.kill()
        agent.process.wait()
        self._note("agent.killed", agent, open_transactions=opened)
        self._replace(agent)
        caught = f" with {opened} transaction{'s' * (opened != 1)} open" if opened else ""
        return f"kill -9 of the {role} (pid {agent.process.pid}){caught}; started again"

    def _replace(self, agent: Agent) -> None:
        agent.complaints.close()
        if agent.process.stdin is not None:
            agent.process.stdin.close()
        self._start(agent.role, agent.incarnation + 1)

    def _catch_at_work(self, agent: Agent) -> int:
        """Freeze the agent at a moment at which it has transactions open; tells how many."""
        deadline = time.monotonic() + HUNT_SECONDS
        while True:
            os.kill(agent.process.pid, signal.SIGSTOP)
            time.sleep(0.005)  # What the server was doing for it is done: what is open, stays open.
            opened = self._open_transactions(agent)
            if opened or time.monotonic() > deadline:
                return opened
            os.kill(agent.process.pid, signal.SIGCONT)
            time.sleep(0.003)

    def _open_transactions(self, agent: Agent) -> int:
        with self._memory.transaction() as tx:
            row = tx.connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = %s AND state = 'idle in transaction'",
                [agent.application],
            ).fetchone()
        return int(row[0]) if row else 0

    def _note(self, kind: str, agent: Agent, **more: Any) -> None:
        payload = {"role": agent.role, "incarnation": agent.incarnation, **more}
        self._memory.events.append(
            self._run.operations, Event(type=kind, payload=payload, agent_id="supervisor")
        )
