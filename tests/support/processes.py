"""Start worker processes for concurrency tests, kill them, and collect their output.

The workers are forked from a server that has imported pgmem before it has a thread or a connection,
so that sixteen of them start in milliseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback

_context = multiprocessing.get_context("forkserver")
# `pgmem` imports its names when they are first used, so the modules behind them are named.
_context.set_forkserver_preload(["pgmem.memory", "pgmem._sync.memory", "pgmem._sync.groups.verbs"])


def seed() -> int:
    """Choose and print the seed of a test; PGMEM_TEST_SEED repeats an earlier one."""
    value = int(os.environ.get("PGMEM_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"PGMEM_TEST_SEED={value}")
    return value


def _child(script: str, arguments: list[str], commands, answers) -> None:
    """Run a script with its standard input and output on the parent's pipes."""
    sys.argv = ["worker", *arguments]
    sys.stdin = os.fdopen(os.dup(commands.fileno()), "r")
    sys.stdout = os.fdopen(os.dup(answers.fileno()), "w")
    try:
        exec(compile(script, "worker", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
    except BaseException:  # The parent's test shows it, an exit or interrupt too.
        print(json.dumps({"failed": traceback.format_exc()}), flush=True)
        raise


class Worker:
    """A process that runs a script; each line that it prints is one JSON value."""

    def __init__(self, script: str, *arguments: object) -> None:
        theirs, commands = _pipe()
        answers, their_answers = _pipe()
        self._commands = commands
        self._answers = answers
        self.process = _context.Process(
            target=_child,
            args=(script, [str(argument) for argument in arguments], theirs, their_answers),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        their_answers.close()
        self.lines: list = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with os.fdopen(os.dup(self._answers.fileno()), "r") as answers:
            for line in answers:
                # A killed process may leave half a line.
                if line.endswith("\n"):
                    self.lines.append(json.loads(line))

    def say(self) -> None:
        """Send an empty line to its standard input, on which scripts start together."""
        os.write(self._commands.fileno(), b"\n")

    def close_input(self) -> None:
        """End its standard input."""
        self._commands.close()

    def kill(self) -> None:
        """`kill -9`."""
        os.kill(self.process.pid, signal.SIGKILL)

    def running(self) -> bool:
        return self.process.is_alive()

    def finish(self, timeout: float = 120) -> list:
        """Wait for its end and return its lines; raise AssertionError if it failed."""
        self.process.join(timeout)
        assert not self.running(), "worker did not end"
        self._reader.join(timeout)
        self._commands.close()
        self._answers.close()
        failures = [line for line in self.lines if isinstance(line, dict) and "failed" in line]
        assert not failures, failures[0]["failed"]
        return self.lines


def _pipe():
    return _context.Pipe(duplex=False)


def ready(workers: list[Worker], timeout: float = 60) -> None:
    """Wait until each worker has printed a line, then let all of them continue."""
    deadline = time.monotonic() + timeout
    while not all(worker.lines for worker in workers):
        assert time.monotonic() < deadline, "workers did not start"
        time.sleep(0.01)
    for worker in workers:
        worker.say()
