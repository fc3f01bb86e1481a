"""Freeze other garbage: the harness collects its own before each measurement."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def _nothing_else_to_collect():
    gc.collect()
    gc.freeze()
