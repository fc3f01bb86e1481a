"""The rule of the stable position, without a database."""

from __future__ import annotations

import random

import pytest

from pgmem.events.stable_position import WriterBarrier, Writers, contiguous_end


def writers(head: int, *holders: str) -> Writers:
    return Writers(head, frozenset(holders))


def test_without_writers_the_head_is_stable():
    assert WriterBarrier().observe(writers(7)) == 7


def test_the_head_is_stable_once_its_writers_are_gone():
    barrier = WriterBarrier()
    assert barrier.observe(writers(7, "3/1", "3/2")) == 0
    assert barrier.observe(writers(9, "3/2", "3/3")) == 0
    assert barrier.observe(writers(12, "3/3", "3/4")) == 7
    # Those of the second moment were 3/3 and 3/4, and the head then was 12.
    assert barrier.observe(writers(20, "3/4")) == 0
    assert barrier.observe(writers(21, "3/9")) == 12


def test_a_writer_that_is_prepared_meanwhile_is_still_awaited():
    barrier = WriterBarrier()
    assert barrier.observe(writers(7, "3/1")) == 0
    assert barrier.observe(writers(8, "-1/77")) == 0
    assert barrier.observe(writers(9, "-1/77", "3/5")) == 0
    assert barrier.observe(writers(9, "3/5")) == 7


def test_positions_without_a_gap_are_stable():
    assert contiguous_end(3, [4, 5, 7]) == 5
    assert contiguous_end(5, [5, 6, 7, 8]) == 8
    assert contiguous_end(8, []) == 8
    assert contiguous_end(0, [2, 3]) == 0


@pytest.mark.parametrize("seed", range(200))
def test_no_position_is_called_stable_too_early(seed):
    """Random writers against the rule, step by step: draw, commit or roll back, observe."""
    rng = random.Random(seed)
    head, names = 0, iter(range(10**6))
    open_writers: dict[str, set[int]] = {}
    undecided: set[int] = set()
    barrier, final = WriterBarrier(), 0
    for _ in range(300):
        step = rng.random()
        if step < 0.3:
            open_writers[f"3/{next(names)}"] = set()
        elif step < 0.6 and open_writers:
            head += 1
            open_writers[rng.choice(list(open_writers))].add(head)
            undecided.add(head)
        elif step < 0.8 and open_writers:
            undecided -= open_writers.pop(rng.choice(list(open_writers)))
        elif step < 0.85 and open_writers:
            name = rng.choice(list(open_writers))
            if not name.startswith("-1/"):
                open_writers[f"-1/{next(names)}"] = open_writers.pop(name)
        else:
            final = max(final, barrier.observe(writers(head, *open_writers)))
            assert not [position for position in undecided if position <= final], f"seed {seed}"
