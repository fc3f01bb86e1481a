"""How large the proofs are: the issue's sizes with --full, a fraction of them without."""

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
"""The same for what is larger with --full: in one form, for the other is the same code with tasks
in the place of threads."""


def full() -> bool:
    """Whether the proofs run at their full size."""
    return os.environ.get(FULL_VARIABLE) == "1"


def size(at_full: int, otherwise: int, form: str = "sync") -> int:
    """A count at its full or its everyday size; of the asynchronous form always the latter."""
    return at_full if full() and form == "sync" else otherwise
