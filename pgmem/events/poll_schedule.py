"""When the follower of the log polls next. No I/O and no clock."""

from __future__ import annotations

GAP_FIRST, GAP_LAST, GAP_LONG = 0.001, 0.02, 0.25
"""Seconds between two polls while a gap is open: the first pause, the usual limit, and the limit
for a gap that has been open for long. A commit ends the pause by its notification."""
INLINE_DELAY, INLINE_DELAY_LAST = 0.002, 0.01
"""Seconds between an inlined event and the poll behind it. The delay grows while such polls find
nothing, so that one poll serves several inlined events."""
UNWANTED_DELAY = 0.1
"""The same after events that no reader of this process wants. If a hundred processes follow one
log, a poll of each at every event would be most of the server's work."""
POLL_AGAIN = 0.05
"""Seconds until one more poll after a poll that found something: for a writer that did not notify
because another held the notification lock, or that rolled back."""
POLL_MISSING = 0.05
MISSING = 3
"""Number of polls in a row that find unannounced events, after which notifications count as
missing. From the second on, the follower polls every `POLL_MISSING` seconds."""


class PollSchedule:
    """Decides how long the follower waits.

    Args:
        safety_poll: seconds between two polls if no notification arrives.

    Attributes:
        found: True if the last poll found events.
    """

    def __init__(self, safety_poll: float) -> None:
        self._safety_poll = safety_poll
        self._interval = safety_poll
        self._inline_delay = INLINE_DELAY
        self._gap_pause = GAP_FIRST
        self._again = False
        self._timed_out = False
        self._unannounced = 0
        self.found = True

    @property
    def lacks_notifications(self) -> bool:
        """True if the last polls found events of which no notification had told."""
        return self._unannounced >= MISSING

    def polled(self, *, notified: bool, found: bool) -> None:
        """Take in the outcome of a poll.

        Args:
            notified: a notification caused it.
            found: it found events.
        """
        self.found = found
        self._again = notified or found
        self._inline_delay = (
            INLINE_DELAY if found else min(INLINE_DELAY_LAST, self._inline_delay * 1.5)
        )
        if notified:
            self._unannounced = 0
            self._interval = self._safety_poll
        elif found and self._timed_out:
            self._unannounced += 1
            if self._unannounced > 1:  # One may be a writer that found the lock taken.
                self._interval = min(self._safety_poll, POLL_MISSING)
        else:
            self._interval = min(self._safety_poll, self._interval * 1.5)
        self._timed_out = False

    def waited(self, *, notified: bool) -> None:
        """Take in how a wait without a gap ended."""
        self._timed_out = not notified

    def pause(self) -> float:
        """Return the seconds until the next poll while no gap is open."""
        pause = self._interval * 0.9  # a little early, so that caches stay current over the poll
        return min(pause, POLL_AGAIN) if self._again else pause

    def pause_after_inlined(self, *, wanted: bool) -> float:
        """Return the seconds until the poll behind an inlined event.

        Args:
            wanted: a reader of this process may want the event.
        """
        return self._inline_delay if wanted else min(UNWANTED_DELAY, self._interval)

    def open_gap(self) -> None:
        """Begin with short pauses: a gap has appeared, or another one is the first now."""
        self._gap_pause = GAP_FIRST

    def pause_in_gap(self, waited: float) -> float:
        """Return the seconds until the next poll while a gap is open.

        Only a rollback makes the follower wait for all of it, because a commit notifies.

        Args:
            waited: seconds for which the first gap has been open.
        """
        pause = self._gap_pause
        self._gap_pause = min(pause * 1.5, max(GAP_LAST, min(waited / 10, GAP_LONG)))
        return pause
