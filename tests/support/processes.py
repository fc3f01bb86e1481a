"""Real processes for concurrency tests: started together, killed at will, their words collected."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def seed() -> int:
    """The seed of this test; PGMEM_TEST_SEED repeats an earlier one. Printed, so that it shows."""
    value = int(os.environ.get("PGMEM_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"PGMEM_TEST_SEED={value}")
    return value


class Worker:
    """A process that runs a script; each line that it prints is one JSON value."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.lines: list = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            # A killed process may leave half a line.
            if line.endswith("\n"):
                self.lines.append(json.loads(line))

    def say(self, line: str = "") -> None:
        """Send a line to its standard input: scripts wait for one to start together."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)

    def running(self) -> bool:
        return self.process.poll() is None

    def finish(self, timeout: float = 60) -> list:
        """Wait for its end and give what it said; raises if it failed."""
        error = self.process.stderr.read() if self.process.wait(timeout) not in (0, -9) else ""
        self._reader.join(timeout)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()
        assert not error, error
        return self.lines


def ready(workers: list[Worker], timeout: float = 60) -> None:
    """Wait until each worker has said its first word, then let all of them go."""
    deadline = time.monotonic() + timeout
    while not all(worker.lines for worker in workers):
        assert time.monotonic() < deadline, "workers did not start"
        broken = [worker for worker in workers if not worker.running()]
        assert not broken, broken[0].process.stderr.read()
        time.sleep(0.01)
    for worker in workers:
        worker.say()
