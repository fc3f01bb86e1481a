# Generated from pgmem/core/paging.py by tools/generate_sync.py. Do not edit.
"""Read everything, page by page, so that no statement takes long or returns too much at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PAGE = 1_000
"""Number of rows that one statement reads."""


def read_pages(
    read: Callable[[Any, int], Any],
    start: Any,
    next_after: Callable[[T], Any],
    *,
    limit: int | None,
) -> list[T]:
    """Read up to a limit with one statement, or everything with one statement for each page.

    Args:
        read: reads up to a number of items after a key.
        start: the key to begin after.
        next_after: returns the key of an item, to go on after.
        limit: maximum number of items; None for all.
    """
    if limit is not None:
        return list(read(start, limit))
    found: list[T] = []
    after = start
    while True:
        page = read(after, PAGE)
        found += page
        if len(page) < PAGE:
            return found
        after = next_after(page[-1])
