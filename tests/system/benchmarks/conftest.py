"""The harness collects garbage before each measurement: only its own should be there."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def _nothing_else_to_collect():
    gc.collect()
    gc.freeze()
