"""Start the agents' processes, kill one with `kill -9`, restart it, and leave none behind.

The supervisor reads the agents' progress from the database. An agent ends when its standard input
does (see `process`), so no agent outlives a supervisor, however that ends.
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
"""Seconds that the agents have to start."""
FREEZE_SECONDS: Final = 1.0
"""Seconds to find a moment at which the victim has transactions open."""
MAX_CRASHES: Final = 3


class DemoFailed(PgmemError):
    """The demo ended before its run was complete."""


@dataclass
class Agent:
    """One agent's current process."""

    role: Role
    incarnation: int
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    @property
    def application(self) -> str:
        """The application name of its database sessions."""
        return application_name(self.role, self.incarnation)

    def last_line(self) -> str:
        """Return the last line that it wrote to stderr."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")


def application_name(role: Role, incarnation: int) -> str:
    """Return the application name of an agent's database sessions."""
    return f"pgmem demo {os.getpid()} {role}.{incarnation}"


class Supervisor:
    """Runs the agents of one run. Leaving the block ends them all."""

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
        deadline = time.monotonic() + (8 if error is None else 2)
        for agent in self._agents.values():
            try:
                agent.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                agent.process.kill()
                agent.process.wait()
            agent.stderr.close()

    def start_all(self) -> None:
        """Start every agent and wait until all follow.

        Raises:
            DemoFailed: An agent did not start in time.
        """
        for role in ROLES:
            self._start(role, 1)
        deadline = time.monotonic() + START_SECONDS
        while self._memory.events.count(self._run.operations, type="agent.started") < len(ROLES):
            self.restart_ended()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the agents did not start within {START_SECONDS:g} s")
            time.sleep(0.05)

    def _start(self, role: Role, incarnation: int) -> None:
        name = application_name(role, incarnation)
        conninfo = make_conninfo(connection_string(self._url), application_name=name)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the agent
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [
                *(sys.executable, "-m", "pgmem.demo.process"),
                *(role, self._run.id, self._run.mode, str(incarnation)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "PGMEM_DATABASE_URL": conninfo},  # not in argv, which `ps` shows
            # A process group of its own, so that Ctrl-C reaches only the supervisor. Not a session
            # of its own, so that the kernel ends a frozen agent if the supervisor dies.
            process_group=0,
        )
        self._agents[role] = Agent(role, incarnation, process, stderr)

    def restart_ended(self) -> list[str]:
        """Restart agents that have ended by themselves. Return a line about each.

        Raises:
            DemoFailed: It has happened too often.
        """
        done: list[str] = []
        for agent in list(self._agents.values()):
            if agent.process.poll() is None:
                continue
            self._crashes += 1
            line = agent.last_line()
            if self._crashes > MAX_CRASHES:
                raise DemoFailed(f"the {agent.role} ended {MAX_CRASHES} times; last: {line}")
            done.append(f"{agent.role} ended by itself ({line}), restarted")
            self._replace(agent)
        return done

    def kill(self, role: Role) -> str:
        """Kill an agent with `kill -9` and restart it. Return a line about it.

        A processor is killed while it has transactions open.
        """
        agent = self._agents[role]
        opened = self._freeze_in_transaction(agent) if role == "processor" else 0
        agent.process.kill()
        agent.process.wait()
        self._note("agent.killed", agent, open_transactions=opened)
        self._replace(agent)
        caught = f" with {opened} transaction{'s' * (opened != 1)} open" if opened else ""
        return f"kill -9 of the {role} (pid {agent.process.pid}){caught}; restarted"

    def _replace(self, agent: Agent) -> None:
        agent.stderr.close()
        if agent.process.stdin is not None:
            agent.process.stdin.close()
        self._start(agent.role, agent.incarnation + 1)

    def _freeze_in_transaction(self, agent: Agent) -> int:
        """Freeze the agent while it has transactions open. Return how many."""
        deadline = time.monotonic() + FREEZE_SECONDS
        while True:
            os.kill(agent.process.pid, signal.SIGSTOP)
            time.sleep(0.005)  # the server has answered; open transactions stay open
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
