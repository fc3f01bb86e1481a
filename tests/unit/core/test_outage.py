"""An interruption is logged once and its end once, whichever part notices when."""

from __future__ import annotations

import logging
import time

import pytest

from pgmem.core.outage import Outage


@pytest.fixture
def levels(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.levelname for record in caplog.records]


def test_both_parts_notice_it(levels):
    outage = Outage("here")
    for part in ("pool", "follower", "pool"):
        outage.begin(part, "gone", time.monotonic())
    outage.end("pool")
    assert levels() == ["WARNING"]
    outage.end("follower")
    assert levels() == ["WARNING", "INFO"]


def test_a_part_notices_it_after_its_end(levels):
    outage = Outage("here")
    reached = time.monotonic()
    outage.begin("pool", "gone", reached)
    outage.end("pool")
    outage.begin("follower", "gone", reached)
    outage.end("follower")
    assert levels() == ["WARNING", "INFO"]


def test_a_try_to_connect_that_begins_after_the_end_is_a_new_one(levels):
    outage = Outage("here")
    outage.begin("pool", "gone", time.monotonic())
    outage.end("pool")
    for _ in range(2):
        outage.begin("follower", "gone", time.monotonic())
    outage.end("follower")
    assert levels() == ["WARNING", "INFO"] * 2
