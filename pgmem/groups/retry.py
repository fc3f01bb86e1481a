"""Decide when an event whose handler failed is delivered again."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.errors import InvalidInput

MAX_CONFLICTS = 1_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a group delivers failed events again. How often it does is the group's `max_attempts`.

    Attributes:
        backoff: seconds or a timedelta until the second attempt. It doubles with each attempt.
        max_backoff: the longest delay, in seconds or as a timedelta.
        jitter: the part of the delay that is random, 0.0 to 1.0. It keeps events that failed
            together from coming back together.
        conflicts: how often a handler is called again because of a conflict in the database, which
            counts as no attempt. After that the attempt has failed. Conflicts are deadlocks,
            serialization failures, lock and statement timeouts, cancelled statements, a full pool
            and lost connections.

    Raises:
        InvalidInput: a value is not allowed.
    """

    backoff: Seconds = 1.0
    max_backoff: Seconds = 300.0
    jitter: float = 0.5
    conflicts: int = 20

    def __post_init__(self) -> None:
        for name in ("backoff", "max_backoff"):
            object.__setattr__(self, name, check_seconds(getattr(self, name), name, zero=True))
        if (
            not isinstance(self.jitter, int | float)
            or isinstance(self.jitter, bool)
            or not 0 <= self.jitter <= 1
        ):
            raise InvalidInput(f"jitter is a part of the delay, 0.0 to 1.0, got {self.jitter!r}")
        check_count(self.conflicts, "conflicts", minimum=0, maximum=MAX_CONFLICTS)

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next delivery.

        Args:
            attempts: the attempts so far, at least 1.
        """
        first, most = (
            check_seconds(given, "backoff", zero=True) for given in (self.backoff, self.max_backoff)
        )
        longest: float = min(most, first * 2 ** min(attempts - 1, 60))
        return longest * (1 - self.jitter * random.random())  # noqa: S311  # no secret

    def encode(self) -> str | None:
        """Return it as JSON text; None for the default one."""
        return None if self == RetryPolicy() else orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> RetryPolicy:
        """Return a stored policy; the default one for None."""
        return cls() if stored is None else cls(**stored)


DEFAULT_RETRY = RetryPolicy()


class Discard(Exception):  # an answer of the handler
    """Raise it in a handler of `group.run`: the event becomes a dead letter at once.

    Args:
        reason: is kept with the dead letter.
    """


class RetryLater(Exception):  # an answer of the handler
    """Raise it in a handler of `group.run`: the event is delivered again later, without an attempt.

    Args:
        delay: seconds or a timedelta until it is delivered again.
        reason: is kept with the delayed event.

    Raises:
        InvalidInput: the delay is not allowed.
    """

    def __init__(self, delay: Seconds, reason: str | None = None) -> None:
        self.delay = check_seconds(delay, "delay", zero=True)
        super().__init__(reason or f"again in {self.delay:g} s")
