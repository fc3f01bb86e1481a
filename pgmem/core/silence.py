"""Notice that the notification locks are never free.

The locks are advisory, and every role can hold one for ever. Among writers each gets one of them
again and again. So a process that finds both taken for long notifies without a lock.
"""

from __future__ import annotations

from typing import Final

STATEMENTS: Final = 5
SECONDS: Final = 1.0
"""After 5 statements in a row without a lock, over a second, the locks count as never free."""
FORCED_SECONDS: Final = 5.0
"""How long a process then notifies without a lock, until it tries the locks again."""


class Silence:
    """The statements in a row that found both locks taken.

    Attributes:
        number: how many they are.
    """

    __slots__ = ("_found", "_since", "number")

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._found = False

    def add(self, now: float) -> bool:
        """Count a statement. Return True if it is time to notify without a lock."""
        if self.number == 0:
            self._since = now
        self.number += 1
        if self.number >= STATEMENTS and now - self._since >= SECONDS:
            self._found = True  # From then on one statement is enough.
        return self._found
