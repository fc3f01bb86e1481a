"""PollSchedule: when the follower sends its next statement, and which."""

from __future__ import annotations

import itertools
import math

import pytest

from pgmem.events.poll_schedule import (
    CROWDED_DELAY,
    CROWDED_DELAY_LAST,
    GAP_FIRST,
    GAP_LAST,
    GAP_LONG,
    GAP_USUAL,
    IDLE_AFTER,
    IDLE_POLLS,
    MISSING,
    PAUSE_LAST,
    POLL_MISSING,
    UNWANTED_DELAY,
    PollSchedule,
)

TOOK = 0.0005
"""Seconds that a poll takes."""


def poll(schedule, now, *, found=False, full=False):
    """Poll, and return the time after it."""
    unannounced = schedule.sent(now)
    schedule.polled(now + TOOK, found=found, full=full, unannounced=unannounced)
    return now + TOOK


def quiet(safety_poll=1.0, now=100.0):
    """Return a schedule that has polled once, and the time of that poll."""
    schedule = PollSchedule(safety_poll)
    poll(schedule, now)
    return schedule, now


def test_the_first_poll_comes_at_once():
    assert PollSchedule(1.0).due() == -math.inf


def test_without_events_it_polls_a_little_before_the_safety_poll():
    schedule, now = quiet(1.0)
    assert schedule.due() == now + 0.9


def test_a_bare_notification_causes_a_poll_at_once():
    schedule, now = quiet()
    schedule.ask(now + 0.5)
    assert schedule.due() == now + 0.5
    poll(schedule, now + 0.5)
    assert schedule.due() == pytest.approx(now + 0.5 + 0.9)


def test_an_inlined_event_causes_no_poll_and_puts_the_safety_poll_off():
    schedule, now = quiet()
    schedule.accepted(now + 0.5, fresh=False)
    assert schedule.due() == now + 0.5 + 0.9


def test_a_cache_keeps_the_safety_poll_where_it_is():
    schedule, now = quiet()
    schedule.accepted(now + 0.5, fresh=True)
    assert schedule.due(fresh=True) == now + 0.9


def test_a_poll_waits_as_long_as_the_last_one_took():
    schedule, now = quiet()
    schedule.ask(now)
    assert schedule.due() == pytest.approx(now + 2 * TOOK)
    schedule.sent(now)
    schedule.polled(now + 1.0, found=True, full=False, unannounced=False)
    schedule.ask(now)
    assert schedule.due() == now + 1.0 + PAUSE_LAST


def test_after_a_full_page_it_polls_at_once():
    schedule, now = quiet()
    after = poll(schedule, now + 0.1, found=True, full=True)
    assert schedule.due() == after


def test_the_poll_for_silent_writers_comes_later_while_such_polls_find_nothing():
    schedule, now = quiet(10.0**6)
    now = poll(schedule, now + 0.1, found=True) + 1
    schedule.crowded(now, wanted=True)
    assert schedule.due() == pytest.approx(now + CROWDED_DELAY)
    for _ in range(10):
        now = poll(schedule, now + 0.01) + 1
    schedule.crowded(now, wanted=True)
    assert schedule.due() == pytest.approx(now + CROWDED_DELAY_LAST)


def test_silent_writers_are_looked_for_later_if_no_reader_wants_the_events():
    schedule, now = quiet()
    schedule.crowded(now, wanted=False)
    assert schedule.due() == now + UNWANTED_DELAY
    schedule.crowded(now + 0.01, wanted=True)
    assert schedule.due() < now + UNWANTED_DELAY


def test_it_polls_more_often_while_events_come_without_notifications():
    schedule, now = quiet(10.0)
    for count in range(1, MISSING + 1):
        assert not schedule.lacks_notifications
        now = poll(schedule, schedule.due(), found=True)
        assert (schedule.due() - now < 0.1) == (count > 1)
    assert schedule.lacks_notifications
    schedule.ask(now)
    assert not schedule.lacks_notifications
    now = poll(schedule, now + 0.1, found=True)
    assert schedule.due() == pytest.approx(now - TOOK + 9.0)


def test_the_interval_grows_back_to_the_safety_poll():
    schedule, now = quiet(1.0)
    for _ in range(2):
        now = poll(schedule, schedule.due(), found=True)
    assert schedule.due() < now + POLL_MISSING
    for _ in range(20):
        poll(schedule, schedule.due())
    last = schedule.due()
    poll(schedule, last)
    assert schedule.due() == pytest.approx(last + 0.9)


@pytest.mark.parametrize("notified", [True, False])
def test_idle_safety_polls_become_rare_only_if_notifications_arrive(notified):
    schedule, now = quiet(1.0)
    schedule.notified = notified
    schedule.accepted(now, fresh=False)
    while now < 100.0 + IDLE_AFTER:
        assert schedule.due() == pytest.approx(now + 0.9)
        now = schedule.due()
        poll(schedule, now)
    now = schedule.due()
    poll(schedule, now)
    assert schedule.due() == pytest.approx(now + 0.9 * (IDLE_POLLS if notified else 1))
    assert schedule.due(fresh=True) == pytest.approx(now + 0.9)
    schedule.accepted(now, fresh=False)
    assert schedule.due() == pytest.approx(now + 0.9)


def test_safety_polls_stay_frequent_after_an_event_that_was_not_announced():
    schedule, now = quiet(1.0)
    schedule.notified = True
    now = poll(schedule, schedule.due(), found=True)
    for _ in range(50):
        before, now = now, schedule.due()
        assert now - before < 0.91
        poll(schedule, now)


NO_POLL = 10.0**6
"""Seconds: a safety poll that is due in no test."""


def gap(schedule, now, first=5, *, wanted=True, inlined=True):
    schedule.gap(now, first, wanted=wanted, inlined=inlined)


def test_a_gap_is_looked_at_when_it_stays_open_longer_than_gaps_lately_did():
    schedule, now = quiet(NO_POLL)
    gap(schedule, now + 0.1)
    assert schedule.due() == pytest.approx(now + 0.1 + 2 * GAP_USUAL)
    for n in range(100):  # gaps of 6 ms each, closed by inlined events
        gap(schedule, now + n, n)
        gap(schedule, now + n + 0.006, None)
    gap(schedule, now + 200)
    assert schedule.due() == pytest.approx(now + 200.012, abs=1e-4)
    for n in range(100):
        gap(schedule, now + 300 + n, n)
        gap(schedule, now + 301 + n, None)
    gap(schedule, now + 500)
    assert schedule.due() == pytest.approx(now + 500 + GAP_LAST, abs=1e-4)


def test_a_gap_that_a_poll_has_closed_says_nothing_of_the_usual_time():
    schedule, now = quiet(NO_POLL)
    for n in range(100):
        gap(schedule, now, n)
        now = schedule.due()
        schedule.writers_read(now, useful=True)
        now = poll(schedule, now)
        gap(schedule, now, None, inlined=False)
        now += 1
    gap(schedule, now)
    assert schedule.due() == pytest.approx(now + 2 * GAP_USUAL)


def test_a_gap_that_no_reader_waits_behind_is_looked_at_later():
    schedule, now = quiet(NO_POLL)
    gap(schedule, now, wanted=False)
    assert schedule.due() == now + GAP_LAST
    gap(schedule, now + 0.001, wanted=True)
    assert schedule.due() < now + 0.01


def test_a_gap_needs_the_writers_first_and_a_poll_only_if_one_is_gone():
    schedule, now = quiet(NO_POLL)
    gap(schedule, now)
    now = schedule.due()
    assert schedule.writers_due(now)
    schedule.writers_read(now, useful=True)
    assert schedule.due() <= now
    assert not schedule.writers_due(now)
    poll(schedule, now)
    now = schedule.due()
    assert schedule.writers_due(now)
    schedule.writers_read(now, useful=False)
    assert schedule.due() > now
    assert schedule.writers_due(schedule.due())


def test_pauses_in_a_gap_grow_with_the_age_of_the_gap():
    schedule, opened = quiet(NO_POLL)
    gap(schedule, opened)
    pauses, now = [], schedule.due()
    for _ in range(40):
        schedule.writers_read(now, useful=False)
        pauses.append(schedule._gap_due - now)
        now = schedule._gap_due
    assert pauses[0] == pytest.approx(GAP_FIRST)
    assert all(after >= before * 0.999 for before, after in itertools.pairwise(pauses))
    for _ in range(20):
        now += 60
        schedule.writers_read(now, useful=False)
    assert schedule._gap_due - now == pytest.approx(GAP_LONG)
    gap(schedule, now, first=9)
    assert schedule._gap_due - now < GAP_LAST
