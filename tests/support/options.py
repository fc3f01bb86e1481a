"""How large the proofs are: the issue's sizes with --full, a fraction of them without."""

from __future__ import annotations

import os

FULL_VARIABLE = "PGMEM_TEST_FULL"


def full() -> bool:
    """Whether the proofs run at their full size."""
    return os.environ.get(FULL_VARIABLE) == "1"


def size(at_full: int, otherwise: int) -> int:
    """A count at its full or its everyday size."""
    return at_full if full() else otherwise
