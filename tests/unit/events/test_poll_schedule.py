"""PollSchedule: when the follower polls next."""

from __future__ import annotations

from pgmem.events.poll_schedule import (
    GAP_FIRST,
    GAP_LAST,
    GAP_LONG,
    INLINE_DELAY,
    INLINE_DELAY_LAST,
    MISSING,
    POLL_AGAIN,
    POLL_MISSING,
    UNWANTED_DELAY,
    PollSchedule,
)


def quiet(safety_poll=1.0):
    """Return a schedule whose last poll found nothing."""
    schedule = PollSchedule(safety_poll)
    schedule.polled(notified=False, found=False)
    return schedule


def test_without_events_it_polls_a_little_before_the_safety_poll():
    assert quiet(1.0).pause() == 0.9


def test_after_a_poll_with_a_reason_it_polls_once_more_soon():
    for cause in ({"notified": True, "found": False}, {"notified": False, "found": True}):
        schedule = quiet()
        schedule.polled(**cause)
        assert schedule.pause() == POLL_AGAIN
        schedule.polled(notified=False, found=False)
        assert schedule.pause() == 0.9


def unannounced(schedule):
    """Let a poll that no notification caused find events."""
    schedule.waited(notified=False)
    schedule.polled(notified=False, found=True)
    schedule.polled(notified=False, found=False)


def test_it_polls_more_often_while_events_come_without_notifications():
    schedule = quiet(10.0)
    for count in range(1, MISSING + 1):
        assert not schedule.lacks_notifications
        schedule.waited(notified=False)
        schedule.polled(notified=False, found=True)
        schedule.polled(notified=False, found=False)
        assert (schedule.pause() < 0.1) == (count > 1)
    assert schedule.lacks_notifications
    schedule.polled(notified=True, found=True)
    assert not schedule.lacks_notifications
    schedule.polled(notified=False, found=False)
    assert schedule.pause() == 9.0


def test_the_interval_grows_back_to_the_safety_poll():
    schedule = quiet(1.0)
    unannounced(schedule)
    unannounced(schedule)
    assert schedule.pause() < 2 * POLL_MISSING
    for _ in range(20):
        schedule.polled(notified=False, found=False)
    assert schedule.pause() == 0.9


def test_the_poll_behind_inlined_events_comes_later_while_such_polls_find_nothing():
    schedule = quiet()
    schedule.polled(notified=True, found=True)
    assert schedule.pause_after_inlined(wanted=True) == INLINE_DELAY
    for _ in range(10):
        schedule.polled(notified=True, found=False)
    assert schedule.pause_after_inlined(wanted=True) == INLINE_DELAY_LAST
    assert schedule.pause_after_inlined(wanted=False) == UNWANTED_DELAY


def test_pauses_in_a_gap_grow_with_the_age_of_the_gap():
    schedule = quiet()
    schedule.open_gap()
    assert schedule.pause_in_gap(0.0) == GAP_FIRST
    pauses = [schedule.pause_in_gap(0.01) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == GAP_LAST
    assert [schedule.pause_in_gap(60.0) for _ in range(20)][-1] == GAP_LONG
    schedule.open_gap()
    assert schedule.pause_in_gap(0.0) == GAP_FIRST
