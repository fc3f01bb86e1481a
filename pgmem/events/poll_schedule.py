"""When the follower sends its next statement. No I/O and no clock: the caller gives the time.

::

    a notification without an event ──► poll now
    "+": others may be silent ────────► poll soon; later if no reader wants the events
    an inlined event, the next one ───► no poll
    a gap ────────────────────────────► read the open writers, if it stays open longer than gaps
                                        lately do; later if no reader waits for what is behind it
    nothing ──────────────────────────► poll at the safety poll

A writer that did not notify found both notification locks taken, and the second lock's holder sends
"+" after that (see `pgmem.core.statements`). So an inlined event that is the next one needs no poll
behind it.
"""

from __future__ import annotations

import math

GAP_FIRST, GAP_LAST, GAP_LONG = 0.001, 0.02, 0.25
"""Seconds between two reads of the writers while a gap is open: the first pause, the usual limit,
and the limit for a gap that has been open for long. A commit ends the pause by its notification."""
GAP_USUAL = 0.002
"""Seconds for which a gap is expected to be open, before any was seen."""
CROWDED_DELAY, CROWDED_DELAY_LAST = 0.001, 0.01
"""Seconds between a "+" and its poll. The delay grows while such polls find nothing, so that one
poll serves several."""
UNWANTED_DELAY = 0.05
"""The same if no reader of this process wants the events. If a hundred processes follow one log, a
poll of each at every event would be most of the server's work."""
PAUSE_LAST = 0.003
"""After a poll, the next one waits as long as the poll took, at most `PAUSE_LAST` seconds."""
IDLE_AFTER, IDLE_POLLS = 10.0, 10
"""If notifications arrive and nothing has happened for `IDLE_AFTER` seconds, a safety poll comes
only after `IDLE_POLLS` times its interval."""
POLL_MISSING = 0.05
MISSING = 3
"""Number of polls in a row that find unannounced events, after which notifications count as
missing. From the second on, the follower polls every `POLL_MISSING` seconds."""


class PollSchedule:
    """Decides when the follower polls and reads the open writers.

    Args:
        safety_poll: seconds between two polls if no notification arrives.

    Attributes:
        notified: True if this session has shown that notifications arrive.
        first_gap: the first missing position, or None.
    """

    def __init__(self, safety_poll: float) -> None:
        self._safety_poll = safety_poll
        self._interval = safety_poll
        self._since = -math.inf  # The safety poll counts from here.
        self._active_at = -math.inf  # of the first poll, if nothing has happened before
        self._asked_at = -math.inf  # The first poll comes at once.
        self._free_at = -math.inf
        self._crowded_delay = CROWDED_DELAY
        self._unannounced = 0
        self.first_gap: int | None = None
        self._gap_since = 0.0
        self._gap_due = math.inf
        self._gap_reads = 0
        self._gap_pause = GAP_FIRST
        self._gap_wanted = False
        self._usual = GAP_USUAL
        self.notified = False

    @property
    def lacks_notifications(self) -> bool:
        """True if the last polls found events of which no notification had told."""
        return self._unannounced >= MISSING

    def gap_age(self, now: float) -> float:
        """Return the seconds for which the first gap has been open."""
        return now - self._gap_since

    def due(self, *, fresh: bool = False) -> float:
        """Return when the next statement is due.

        Args:
            fresh: a cache needs a poll at every safety poll.
        """
        return max(self._free_at, min(self._asked_at, self._gap_due, self._safety_due(fresh)))

    def _safety_due(self, fresh: bool) -> float:
        interval = self._interval
        settled = self.notified and not self._unannounced and self.first_gap is None
        if settled and not fresh and self._since - self._active_at > IDLE_AFTER:
            interval *= IDLE_POLLS
        return self._since + interval * 0.9  # a little early: caches stay current over the poll

    def writers_due(self, now: float) -> bool:
        """Return True if the statement that is due reads the open writers, and not events."""
        return self._gap_due <= now and self._asked_at > now

    def ask(self, now: float) -> None:
        """Poll now: a notification without an event came."""
        self._asked_at = min(self._asked_at, now)
        self._heard(now)

    def crowded(self, now: float, *, wanted: bool) -> None:
        """Poll soon: a writer said that others may be silent.

        Args:
            now: the time.
            wanted: a reader of this process may want the events.
        """
        delay = self._crowded_delay if wanted else UNWANTED_DELAY
        self._asked_at = min(self._asked_at, now + min(delay, self._interval))
        self._heard(now)

    def accepted(self, now: float, *, fresh: bool) -> None:
        """Take in that an inlined event came. Without a gap, nothing in front of it is missing."""
        if self.first_gap is None and not fresh:
            self._since = now
        self._heard(now)

    def _heard(self, now: float) -> None:
        self._active_at = now
        self._unannounced = 0
        self._interval = self._safety_poll

    def sent(self, now: float) -> bool:
        """Note that a poll is sent. Return True if nothing announced it."""
        if self._active_at == -math.inf:
            self._active_at = now
        unannounced = self._asked_at > now and self.first_gap is None
        self._asked_at = math.inf
        self._since = now
        return unannounced

    def polled(self, now: float, *, found: bool, full: bool, unannounced: bool) -> None:
        """Take in the outcome of a poll.

        Args:
            now: the time.
            found: it found events.
            full: there may be more.
            unannounced: nothing announced it (`sent`).
        """
        self._free_at = now + min(PAUSE_LAST, now - self._since)
        self._crowded_delay = (
            CROWDED_DELAY if found else min(CROWDED_DELAY_LAST, self._crowded_delay * 1.5)
        )
        if full:
            self._asked_at = self._free_at = now
        if found:
            self._active_at = now
        if found and unannounced:
            self._unannounced += 1
            if self._unannounced > 1:  # One may be a writer that was silent.
                self._interval = min(self._safety_poll, POLL_MISSING)
        elif not found:
            self._interval = min(self._safety_poll, self._interval * 1.5)

    def gap(self, now: float, first: int | None, *, wanted: bool, inlined: bool) -> None:
        """Note the first missing position after something was taken in.

        Args:
            now: the time.
            first: the position; None if no gap is open.
            wanted: a reader may want what is in the gap or behind it.
            inlined: an inlined event was taken in, not a poll.
        """
        if first != self.first_gap:
            if self.first_gap is not None and (inlined or not self._gap_reads):
                # It closed by itself. One that a poll closed says nothing of the usual time.
                self._usual += (min(now - self._gap_since, GAP_LAST) - self._usual) / 8
            self.first_gap, self._gap_since, self._gap_reads = first, now, 0
            self._gap_due, self._gap_pause = math.inf, GAP_FIRST
        self._gap_wanted = wanted
        if first is not None and not self._gap_reads:
            usual = max(GAP_FIRST, min(2 * self._usual, GAP_LAST))
            self._gap_due = self._gap_since + (usual if wanted else GAP_LAST)

    def writers_read(self, now: float, *, useful: bool) -> None:
        """Note that the open writers were read.

        Args:
            now: the time.
            useful: a poll may find what the last one did not.
        """
        if useful:
            self._asked_at = now
        self._gap_reads += 1
        pause = self._gap_pause if self._gap_wanted else max(GAP_LAST, self._gap_pause)
        self._gap_due = now + pause
        age = self.gap_age(now)
        self._gap_pause = min(self._gap_pause * 1.5, max(GAP_LAST, min(age / 10, GAP_LONG)))
