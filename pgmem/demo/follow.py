"""Follow a stream, give each event to a worker, and store the position.

Both modes read in this way, at least once. The stored position has only finished work up to it, and
it is stored a few times a second. So a killed agent gets some events again, and its handlers must
not repeat their effects.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from pgmem import Memory, RecordedEvent
from pgmem.demo.run import Role, Run

Handler = Callable[[RecordedEvent], None]

SAVE_EVERY = 0.25
READ_WAIT = 0.1


class Progress:
    """Tracks the positions in progress and the position up to which everything is done."""

    def __init__(self, position: int) -> None:
        self._open: set[int] = set()
        self._read = position
        self._lock = threading.Lock()

    def begin(self, position: int) -> None:
        """Add a position that a worker is going to get. Positions begin in order."""
        with self._lock:
            self._open.add(position)
            self._read = position

    def done(self, position: int) -> None:
        """Remove a position that a worker has finished."""
        with self._lock:
            self._open.discard(position)

    def safe(self) -> int:
        """Return the position up to which everything is done."""
        with self._lock:
            return min(self._open) - 1 if self._open else self._read


class Follower:
    """Reads an agent's stream, with a thread for each handler."""

    def __init__(
        self,
        memory: Memory,
        run: Run,
        role: Role,
        handlers: Sequence[Handler],
        stop: threading.Event,
    ) -> None:
        self._memory = memory
        self._stream = run.followed(role)
        self._position_key = run.position(role)
        self._handlers = handlers
        self._stop = stop
        self._failure: Exception | None = None
        self._work: queue.Queue[RecordedEvent | None] = queue.Queue(2 * len(handlers))
        kept = memory.state.get(self._position_key)
        self._stored = int(kept.value["position"]) if kept else 0
        self._progress = Progress(self._stored)
        self._save_at = 0.0

    def run(self) -> None:
        """Follow until `stop` is set, then finish the events in progress.

        Raises:
            Exception: The first one that a handler raised.
        """
        threads = [
            threading.Thread(target=self._serve, args=[handler], daemon=True)
            for handler in self._handlers
        ]
        for thread in threads:
            thread.start()
        try:
            self._read()
        finally:
            for _ in threads:
                self._hand_out(None)
        if self._failure is None:
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure
        self._store()

    def _read(self) -> None:
        position = self._stored
        while not self._ended():
            for event in self._memory.events.read(self._stream, after=position, timeout=READ_WAIT):
                self._progress.begin(event.position)
                self._hand_out(event)
                position = event.position
            if time.monotonic() >= self._save_at:
                self._store()

    def _ended(self) -> bool:
        return self._stop.is_set() or self._failure is not None

    def _hand_out(self, event: RecordedEvent | None) -> None:
        while self._failure is None:
            try:
                self._work.put(event, timeout=0.1)
            except queue.Full:
                self._store()
            else:
                return

    def _store(self) -> None:
        self._save_at = time.monotonic() + SAVE_EVERY
        position = self._progress.safe()
        if position > self._stored:
            self._memory.state.put(self._position_key, {"position": position}, record=False)
            self._stored = position

    def _serve(self, handler: Handler) -> None:
        while (event := self._work.get()) is not None:
            try:
                handler(event)
            except Exception as failure:  # raised again by run()
                self._failure = failure
                return
            self._progress.done(event.position)
