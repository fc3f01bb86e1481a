"""Sizes of the proofs: full with --full, a fraction without."""

from __future__ import annotations

import os

import pytest

FULL_VARIABLE = "PGMEM_TEST_FULL"


_SIZED = pytest.param("sync", marks=pytest.mark.sized)
_SLOW = pytest.param("async", marks=pytest.mark.thorough)

FORMS = pytest.mark.parametrize("name", ["sync", "async"])
"""A test of both forms, by the argument `name`."""
SLOW_FORMS = pytest.mark.parametrize("name", ["sync", _SLOW])
"""The same for a slow one: the second form with --full."""
SIZED_FORMS = pytest.mark.parametrize("name", [_SIZED, "async"])
SIZED_SLOW_FORMS = pytest.mark.parametrize("name", [_SIZED, _SLOW])
"""The same for a test that is larger with --full. Only one form grows, as the other is the same
code with tasks instead of threads."""


def full() -> bool:
    """Return True if the proofs run at their full size."""
    return os.environ.get(FULL_VARIABLE) == "1"


def size(at_full: int, otherwise: int, form: str = "sync") -> int:
    """Return a count: full size with --full in the sync form, otherwise the small one."""
    return at_full if full() and form == "sync" else otherwise
