"""One agent's process: `python -m pgmem.demo.process ROLE RUN MODE INCARNATION`.

The database comes in PGMEM_DATABASE_URL. Standard input is the leash: when it ends, because the
supervisor let go or died in whatever way, the agent finishes what it has begun and ends; after a
few seconds it ends in any case. It prints nothing; a failure is its last line on stderr.
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


def _hold_leash(stop: threading.Event) -> None:
    # The file descriptor, not sys.stdin: the interpreter locks that one when it ends.
    while os.read(0, 1024):
        pass
    stop.set()
    timer = threading.Timer(GRACE, os._exit, [3])
    timer.daemon = True
    timer.start()


def main(arguments: list[str]) -> None:
    """Be an agent until the leash is let go."""
    role, run_id, mode, incarnation = arguments
    run, role = Run(run_id, cast("Mode", mode)), cast("Role", role)
    stop = threading.Event()
    threading.Thread(target=_hold_leash, args=[stop], daemon=True).start()
    name = f"{role}.{incarnation}"
    maker = agents if run.mode == "shared" else isolated
    # One connection for each worker, for the reader and for what a worker notes down meanwhile.
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
    except Exception as failure:  # one line for the supervisor to show
        sys.stderr.write(f"{type(failure).__name__}: {failure}\n")
        sys.exit(1)
