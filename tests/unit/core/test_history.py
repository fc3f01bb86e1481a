"""Decide whether a reader can go on after a promotion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgmem.core.history import (
    Comparison,
    Epoch,
    History,
    combine,
    compare,
    holds_all,
    parse_lsn,
    rewritten_error,
)

ONE, TWO, FOUR = History(7, 1), History(7, 2), History(7, 4)
MOMENT = datetime(2026, 11, 30, tzinfo=UTC)


def events(*positions, late=()):
    """Return given events; those of `late` have another time, as if they were written anew."""
    return [(n, MOMENT + timedelta(seconds=n, hours=n in late)) for n in positions]


@pytest.mark.parametrize(
    ("seen", "fork", "holds"),
    [(99, 100, True), (100, 100, True), (101, 100, False), (99, None, False), (0, 100, False)],
)
def test_a_timeline_holds_what_was_seen_before_its_fork(seen, fork, holds):
    assert holds_all(seen, [Epoch(2, fork)], ONE, TWO) is holds


@pytest.mark.parametrize(
    ("forks", "holds"),
    [
        ({2: 100, 3: 100, 4: 100}, True),
        ({2: 100, 3: 90, 4: 100}, False),
        ({2: 100, 3: None, 4: 100}, False),
        ({2: 100, 4: 100}, False),
        ({4: 100}, False),
    ],
)
def test_every_fork_between_two_timelines_counts(forks, holds):
    epochs = [Epoch(*fork) for fork in forks.items()]
    assert holds_all(95, epochs, ONE, FOUR) is holds


@pytest.mark.parametrize("found", [History(7, None), ONE._replace(timeline=None)])
def test_a_standby_proves_nothing(found):
    assert not holds_all(5, [Epoch(2, 100)], ONE, found)


@pytest.mark.parametrize(
    ("before", "after", "leads"),
    [
        (ONE, TWO, True),
        (TWO, ONE, False),
        (ONE, ONE, False),
        (ONE, History(8, 2), False),
        (ONE, History(7, None), False),
        (History(7, None), TWO, False),
    ],
)
def test_a_history_leads_to_later_timelines_of_its_cluster(before, after, leads):
    assert before.leads_to(after) is leads


@pytest.mark.parametrize(
    ("given", "kept", "removed_to", "result"),
    [
        (events(1, 2, 4), events(1, 2, 4), 0, Comparison(True, 4, ())),
        (events(1, 2, 4), events(1, 2), 0, Comparison(False, 2, (4,))),
        (events(1, 2, 4), events(1, 2, 4, late=[4]), 0, Comparison(False, 2, (4,))),
        # A void position that is drawn again would be skipped.
        (events(1, 2, 4), events(1, 2, 3, 4), 0, Comparison(False, 2, ())),
        (events(3, 4), events(4), 0, Comparison(False, None, (3,))),
        (events(3, 4), events(4), 3, Comparison(True, 4, ())),
        (events(3, 4), [], 9, Comparison(True, 9, ())),
    ],
)
def test_what_was_given_out_is_compared_with_the_log(given, kept, removed_to, result):
    assert compare(given, kept, removed_to) == result


@pytest.mark.parametrize(
    ("results", "result"),
    [
        ([], Comparison(True, None, ())),
        ([Comparison(True, 4, ()), Comparison(True, 9, ())], Comparison(True, 9, ())),
        ([Comparison(False, 4, (5,)), Comparison(True, 9, ())], Comparison(False, 4, (5,))),
        ([Comparison(False, 4, (6,)), Comparison(False, 3, (5, 6))], Comparison(False, 3, (5, 6))),
        (
            [Comparison(False, None, (6,)), Comparison(False, 3, (5,))],
            Comparison(False, None, (5, 6)),
        ),
    ],
)
def test_the_lowest_end_of_several_comparisons_counts(results, result):
    assert combine(results) == result


def test_a_wal_position_is_a_number():
    assert parse_lsn("1/A") == (1 << 32) + 10
    assert parse_lsn("0/FFFFFFFF") + 1 == parse_lsn("1/0")


def test_the_error_says_how_far_the_logs_agree():
    error = rewritten_error(ONE, TWO, 12, Comparison(False, 9, (10, 12)))
    assert (error.position, error.expected, error.found) == (12, ONE, TWO)
    assert (error.agrees_up_to, error.lost) == (9, (10, 12))
    assert "up to position 9; 2 events that were read after it are gone" in str(error)
