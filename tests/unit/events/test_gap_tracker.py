"""The gap tracker at the end of the log, without a database."""

from __future__ import annotations

import random

import pytest

from pgmem.events import gap_tracker as module
from pgmem.events.gap_tracker import GapTracker
from pgmem.events.stable_position import Writers
from tests.support.rows import page, positions, row


def writers(head: int, *holders: str) -> Writers:
    return Writers(head, frozenset(holders))


def take(tail, head, *found, limit=100, late_limit=100):
    request = tail.request(limit, late_limit)
    return positions(tail.take(page(head, *found), request).stable)


def test_without_a_gap_everything_is_stable():
    tail = GapTracker(0)
    assert take(tail, 3, 1, 2, 3) == [1, 2, 3]
    assert (tail.position, tail.seen, tail.gaps) == (3, 3, [])


def test_events_above_a_gap_wait_until_it_is_filled():
    tail = GapTracker(0)
    assert take(tail, 5, 1, 3, 5) == [1]
    assert (tail.position, tail.seen, tail.gaps) == (1, 5, [(2, 2), (4, 4)])
    assert take(tail, 5, 4) == []
    assert take(tail, 6, 2, 6) == [2, 3, 4, 5, 6]
    assert tail.gaps == []


def test_a_head_without_its_event_is_a_gap():
    tail = GapTracker(7)
    assert take(tail, 9, 8) == [8]
    assert tail.gaps == [(9, 9)]


def test_a_gap_is_void_only_for_a_poll_after_the_end_of_its_writers():
    tail = GapTracker(0)
    assert take(tail, 2, 2) == []
    tail.observe(writers(2, "3/1"))
    assert take(tail, 2) == []
    tail.observe(writers(2))
    assert (tail.position, tail.gaps) == (0, [(1, 1)])  # it may have committed meanwhile
    assert take(tail, 2) == [2]
    assert tail.position == 2


def test_a_full_page_says_nothing_of_positions_above_it():
    tail = GapTracker(0)
    assert take(tail, 9, 1, 2, limit=2) == [1, 2]
    assert (tail.seen, tail.gaps) == (2, [])


def test_a_full_page_of_late_events_voids_nothing_above_it():
    tail = GapTracker(0)
    take(tail, 9, 1, 9)
    tail.observe(writers(9))
    assert take(tail, 9, 2, 4, late_limit=2) == [2, 4]
    assert tail.gaps == [(5, 8)]
    assert take(tail, 9, 6, late_limit=2) == [6, 9]


def accept(tail, position):
    """Return the events that an inlined event makes stable, or None if it is left to a poll."""
    taken = tail.accept(row(position))
    return taken and positions(taken.stable)


def test_an_inlined_event_after_the_last_seen_is_stable():
    tail = GapTracker(4)
    assert accept(tail, 4) == []
    assert accept(tail, 5) == [5]
    assert accept(tail, 5) == []
    assert tail.position == 5


def test_an_inlined_event_further_ahead_waits_for_the_gap():
    tail = GapTracker(4)
    assert accept(tail, 7) == []
    assert tail.gaps == [(5, 6)]
    assert accept(tail, 7) == []
    assert accept(tail, 5) == [5]
    assert take(tail, 8, 6) == [6, 7]
    assert tail.gaps == [(8, 8)]


def test_an_inlined_event_fills_a_gap_and_releases_what_is_above_it():
    tail = GapTracker(0)
    assert take(tail, 5, 1, 3, 5) == [1]
    assert accept(tail, 4) == []
    assert accept(tail, 2) == [2, 3, 4, 5]
    assert tail.gaps == []


def test_a_gap_in_front_of_an_inlined_event_is_void_only_after_a_poll():
    tail = GapTracker(0)
    tail.observe(writers(9))  # No writer is open: all up to 9 is visible, or void.
    assert accept(tail, 3) == []
    assert tail.gaps == [(1, 2)]
    assert take(tail, 3, 2) == [2, 3]


def test_an_inlined_event_far_ahead_or_above_much_pending_is_left_to_a_poll(monkeypatch):
    tail = GapTracker(0)
    assert accept(tail, 1_002) is None
    monkeypatch.setattr("pgmem.events.gap_tracker.MAX_PENDING_BYTES", 100)
    assert accept(tail, 2) == []
    assert accept(tail, 3) is None
    assert tail.seen == 2


def test_inlined_events_are_left_to_a_poll_while_there_are_many_gaps():
    """Leave them to a poll: a search of all gaps for each event would never catch up."""
    tail = GapTracker(0)
    take(tail, 100, *range(2, 101, 2))
    assert len(tail.gaps) == 50
    assert accept(tail, 1) is None
    assert accept(tail, 101) is None
    assert take(tail, 101, *range(1, 102, 2)) == list(range(1, 102))
    assert accept(tail, 102) == [102]


def test_nothing_more_is_read_above_a_gap_while_much_is_pending(monkeypatch):
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 3_000)
    tail = GapTracker(0)
    take(tail, 5, 2, 3, 4, 5)
    assert not tail.full
    take(tail, 9, 6, 7, 8, 9)
    assert tail.full
    assert take(tail, 20, 1, limit=0) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert not tail.full
    assert tail.seen == 9


def test_what_is_known_by_the_answer_of_a_poll_is_left_out_of_it():
    tail = GapTracker(0)
    take(tail, 4, 1, 4)
    request = tail.request(100, 100)
    assert accept(tail, 2) == [2]
    assert accept(tail, 6) == []
    assert tail.gaps == [(3, 3), (5, 5)]
    taken = tail.take(page(7, 2, 3, 6), request)
    assert positions(taken.seen) == [3]
    assert positions(taken.stable) == [3, 4]
    assert tail.gaps == [(5, 5), (7, 7)]


def test_a_poll_that_was_sent_before_its_writers_were_seen_gone_voids_nothing():
    tail = GapTracker(0)
    take(tail, 2, 2)
    request = tail.request(100, 100)
    tail.observe(writers(2))
    assert positions(tail.take(page(2), request).stable) == []
    assert tail.gaps == [(1, 1)]
    assert take(tail, 2) == [2]


def test_a_full_poll_voids_no_gap_that_it_did_not_reach():
    tail = GapTracker(0)
    tail.observe(writers(9))
    request = tail.request(2, 100)
    assert accept(tail, 8) == []
    taken = tail.take(page(9, 1, 2), request)
    assert positions(taken.stable) == [1, 2]
    assert tail.gaps == [(3, 7)]


def test_looking_at_the_writers_is_useful_only_if_one_of_them_is_gone():
    tail = GapTracker(0)
    take(tail, 2, 2)
    assert tail.observe(writers(2, "3/1", "3/2"))  # The gap may be older than this list.
    assert not tail.observe(writers(3, "3/1", "3/2", "3/3"))
    assert tail.observe(writers(3, "3/2", "3/3"))
    assert tail.observe(writers(4, "3/3"))


class World:
    """A log with writers that do one random step at a time."""

    def __init__(self, rng):
        self.rng = rng
        self.head = 0
        self.names = iter(range(10**6))
        self.open = {}
        self.committed = set()
        self.inlined = []

    def steps(self, most):
        for _ in range(self.rng.randrange(most + 1)):
            self.step()

    def step(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.25 or not self.open:
            self.open[f"3/{next(self.names)}"] = []
            return
        name = rng.choice(list(self.open))
        prepared = name.startswith("-1/")
        if kind < 0.6 and not prepared:
            # Now and then the sequence jumps, as it does after a crash.
            self.head += 1 if rng.random() < 0.97 else rng.randrange(1, 10**6)
            self.open[name].append(self.head)
        elif kind < 0.64 and not prepared:
            self.open[name] = self.open[name][: rng.randrange(3)]  # to a savepoint
        elif kind < 0.68 and not prepared:
            self.open[f"-1/{next(self.names)}"] = self.open.pop(name)
        elif kind < 0.9:
            drawn = self.open.pop(name)
            self.committed.update(drawn)
            if len(drawn) == 1 and rng.random() < 0.7:
                self.inlined.append(drawn[0])
        else:
            self.open.pop(name)

    def writers(self):
        head = self.head
        self.steps(2)
        return writers(head, *self.open)

    def page(self, request):
        """Read a page. The head is read a little after the snapshot is taken."""
        visible = sorted(self.committed)
        self.steps(2)
        late = [at for at in visible if any(low <= at <= high for low, high in request.gaps)]
        new = [at for at in visible if at > request.seen]
        return page(self.head, *late[: request.late_limit], *new[: request.limit])


@pytest.mark.parametrize("seed", range(150))
def test_every_event_is_returned_once_in_order_and_never_too_early(seed):
    rng = random.Random(seed)
    world, tail, given = World(rng), GapTracker(0), []

    sent = None

    def send(limit, late_limit):
        request = tail.request(limit, late_limit)
        return request, world.page(request)

    def take_in(sent):
        request, found = sent
        given.extend(positions(tail.take(found, request).stable))

    for _ in range(150):
        world.steps(3)
        kind = rng.random()
        if kind < 0.15 and sent is None:
            sent = send(rng.choice((0, 1, 2, 5, 100)), rng.choice((1, 2, 100)))
        elif kind < 0.3 and sent is not None:
            take_in(sent)
            sent = None
        elif kind < 0.5:
            tail.observe(world.writers())
        elif kind < 0.7 and world.inlined:
            # Inlined events come in the order of the commits; some are lost.
            inlined = world.inlined.pop(0)
            if rng.random() < 0.8 and (taken := tail.accept(row(inlined))):
                given.extend(positions(taken.stable))
        assert given == sorted(at for at in world.committed if at <= tail.position)
        assert not [at for drawn in world.open.values() for at in drawn if at <= tail.position]
    while world.open:
        world.step()
    world.steps = lambda most: None
    for _ in range(2):
        tail.observe(world.writers())
    take_in(send(10**6, 10**6))
    assert given == sorted(world.committed)
    assert (tail.position, tail.gaps) == (world.head, [])


def test_the_cost_of_a_poll_does_not_grow_with_pending_events():
    """Count the rows that are measured: each once when it comes, and once when it goes."""
    tail, rows = GapTracker(0), 2_000
    take(tail, 2, 2)
    for position in range(3, rows, 3):
        take(tail, position + 2, position, position + 2)
        take(tail, position + 2, position + 1)
    assert len(tail._pending) >= rows - 2
    with CountedRows() as counted:
        take(tail, rows + 1, rows + 1)
    assert counted.count <= 2


class CountedRows:
    """Count the rows that are measured in the block."""

    def __enter__(self):
        self.count = 0
        self._real = module.row_bytes
        module.row_bytes = self._measure
        return self

    def _measure(self, row):
        self.count += 1
        return self._real(row)

    def __exit__(self, *error):
        module.row_bytes = self._real
