"""Measure how long a busy machine keeps a thread from running, to allow for it in deadlines."""

from __future__ import annotations

import threading
import time

PERIOD = 0.005
PROCESSES = 4
"""A notification passes through the writer, its backend, the listener's backend and the reader."""


class Stalls:
    """Measures the longest stall of a thread from the beginning to the end of the block.

    Attributes:
        worst: seconds.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def _measure(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(PERIOD):
            now = time.monotonic()
            self.worst = max(self.worst, now - before - PERIOD)
            before = now

    @property
    def allowance(self) -> float:
        """Seconds by which an event may be late for want of a processor."""
        return PROCESSES * self.worst

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
