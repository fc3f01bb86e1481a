"""How large the proofs are: the issue's sizes with --full, a fraction of them without."""

from __future__ import annotations

import os

import pytest

FULL_VARIABLE = "PGMEM_TEST_FULL"


FORMS = pytest.mark.parametrize("name", ["sync", "async"])
"""A test of both forms, by the argument `name`."""
SLOW_FORMS = pytest.mark.parametrize(
    "name", ["sync", pytest.param("async", marks=pytest.mark.thorough)]
)
"""The same for a slow one: the second form with --full."""


def full() -> bool:
    """Whether the proofs run at their full size."""
    return os.environ.get(FULL_VARIABLE) == "1"


def size(at_full: int, otherwise: int) -> int:
    """A count at its full or its everyday size."""
    return at_full if full() else otherwise
