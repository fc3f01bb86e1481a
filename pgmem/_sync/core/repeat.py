# Generated from pgmem/core/repeat.py by tools/generate_sync.py. Do not edit.
"""Call a function again after a lost race."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pgmem._sync.core.retry import jitter
from pgmem.core.concurrency import sleep
from pgmem.core.validation import check_count
from pgmem.errors import Conflict

T = TypeVar("T")


def repeat(call: Callable[[int], T], lost: type[Conflict], *, retries: int) -> T:
    """Call a function until it wins.

    Args:
        call: takes the number of calls before this one.
        lost: what it raises if it has lost a race.
        retries: the most further calls. The pause before each is random and grows up to 0.1 s.

    Raises:
        InvalidInput: `retries` is not allowed.
        Conflict: of the type `lost`: it has lost every race.
    """
    check_count(retries, "retries", minimum=0)
    number = 0
    while True:
        try:
            return call(number)
        except lost:
            if number == retries:
                raise
        sleep(jitter(number))
        number += 1
