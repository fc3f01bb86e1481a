"""Log an outage of the server when it begins and ends, and choose when to try again."""

from __future__ import annotations

import logging
import random
import time

from pgmem.core.concurrency import Lock

log = logging.getLogger("pgmem")

PAUSE_FIRST, PAUSE_QUICK, PAUSE_LAST = 0.02, 0.2, 1.0
"""Seconds between two tries to connect: the first pause, the longest one after a try that was
answered at once, and the longest one after a try that was not. A machine whose server is being
restarted refuses at once, and the server is back within about a second."""


def reason_of(error: BaseException) -> str:
    """Return an error's text in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class Outage:
    """The state of the way to one server, as the parts of a memory find it.

    The pool and the follower lose their connections in the same moment, and notice it at different
    times. The first one to notice logs it. It is over when the follower follows again, or, if that
    has not noticed, when the pool has connected. A part that notices after that has lost nothing
    more, so nothing is logged.

    Args:
        where: the server, without the password, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = Lock()
        self._parts: set[str] = set()
        self._since = 0.0
        self._ended = 0.0

    def begin(self, part: str, reason: str, reached: float) -> None:
        """Record that a part has lost the server, and log it if it is the first one.

        Args:
            part: the part.
            reason: the error's text.
            reached: the part's last proof that the server was there, or when its failed try to
                connect began, by the monotonic clock. If that is before the end of the last
                interruption, this is the same one.
        """
        with self._lock:
            if reached < self._ended:
                return
            first = not self._parts
            self._parts.add(part)
            if first:
                self._since = time.monotonic()
        if first:
            log.warning("the connection to %s is interrupted: %s", self._where, reason)

    def end(self, part: str) -> None:
        """Record that a part has connected again, and log it if no other one has yet to."""
        if not self._parts:
            return
        with self._lock:
            interrupted = bool(self._parts)
            self._parts.discard(part)
            if part == "follower":
                # The pool may have no reason to connect.
                self._parts.clear()
            over = interrupted and not self._parts
            now = time.monotonic()
            seconds = now - self._since
            if over:
                self._ended = now
        if over:
            log.info("connected to %s again after %.1f s", self._where, seconds)


class ReconnectPause:
    """Chooses the pause before the next try to connect."""

    def __init__(self) -> None:
        self._failures = 0

    def succeeded(self) -> None:
        """Begin with the first pause again."""
        self._failures = 0

    def failed(self, took: float) -> float:
        """Return the seconds until the next try: a random part, so that not all try at once.

        Args:
            took: the seconds that the try took.
        """
        last = PAUSE_QUICK if took <= PAUSE_QUICK else PAUSE_LAST
        pause = min(last, PAUSE_FIRST * 2.0**self._failures)
        self._failures += 1
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
