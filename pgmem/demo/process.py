"""One agent's process: `python -m pgmem.demo.process ROLE RUN MODE INCARNATION`.

The database comes in PGMEM_DATABASE_URL. When standard input ends, because the supervisor has
closed it or has died, the agent finishes the events in progress and ends. After a few seconds it
ends in any case. It prints nothing, except an error as its last line on stderr.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import cast

from pgmem import Event, Memory
from pgmem.demo import agents, isolated
from pgmem.demo.follow import Follower
from pgmem.demo.run import SCHEMA, WORKERS, Mode, Role, Run

GRACE = 5.0
"""Seconds from the end of standard input to the end of the process, at most."""


def _watch_input(stop: threading.Event) -> None:
    # The file descriptor and not sys.stdin, which the interpreter locks when it ends.
    while os.read(0, 1024):
        pass
    stop.set()
    timer = threading.Timer(GRACE, os._exit, [3])
    timer.daemon = True
    timer.start()


def main(arguments: list[str]) -> None:
    """Run an agent until standard input ends."""
    role, run_id, mode, incarnation = arguments
    run, role = Run(run_id, cast("Mode", mode)), cast("Role", role)
    stop = threading.Event()
    threading.Thread(target=_watch_input, args=[stop], daemon=True).start()
    name = f"{role}.{incarnation}"
    maker = agents if run.mode == "shared" else isolated
    # One connection for each worker, one for its notes, one for the reader and one more.
    with Memory(None, schema=SCHEMA, agent_id=name, pool=(1, 2 * WORKERS[role] + 2)) as memory:
        follower = Follower(memory, run, role, maker.handlers(memory, run, role, name), stop)
        started = {"role": role, "incarnation": int(incarnation), "pid": os.getpid()}
        memory.events.append(run.operations, Event(type="agent.started", payload=started))
        follower.run()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as failure:  # one line, which the supervisor shows
        sys.stderr.write(f"{type(failure).__name__}: {failure}\n")
        sys.exit(1)
