"""Count what an arm did wrong, from what the store holds.

A wrong answer has no speed: one fault marks an arm as wrong, whatever its figures are. This module
compares lists; it reads from no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Faults:
    """Count wrong results by kind.

    Attributes:
        lost: acknowledged, but not in the store.
        duplicated: in the store more often than it was written.
        reordered: in the store after something that was written later.
        torn: only partly in the store.
        starved: work that did not get its turn.
    """

    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    torn: int = 0
    starved: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def without(self, kinds: Sequence[str]) -> Faults:
        """Return these faults without those of some kinds."""
        return replace(self, **dict.fromkeys(kinds, 0))

    def __str__(self) -> str:
        found = [f"{getattr(self, f.name)} {f.name}" for f in fields(self) if getattr(self, f.name)]
        return ", ".join(found) or "none"


NO_FAULTS = Faults()


def compare(acknowledged: Sequence[int], found: Sequence[int]) -> Faults:
    """Compare the events that one writer wrote in order with those in the store.

    Args:
        acknowledged: their numbers, in the order of the acknowledgements.
        found: the numbers in the store, in its order.
    """
    wanted, there = Counter(acknowledged), Counter(found)
    order = {number: place for place, number in enumerate(acknowledged)}
    places = [order[number] for number in dict.fromkeys(found) if number in order]
    return Faults(
        lost=(wanted - there).total(),
        duplicated=(there - wanted).total(),
        reordered=sum(later < earlier for earlier, later in pairwise(places)),
    )


def compare_each(acknowledged: Sequence[Sequence[int]], found: Sequence[int]) -> Faults:
    """Compare the events of several writers, each in its own order.

    Args:
        acknowledged: the numbers of each writer, all different, in the order of the
            acknowledgements.
        found: the numbers in the store, or as they were delivered.
    """
    owner = {number: who for who, numbers in enumerate(acknowledged) for number in numbers}
    shares: list[list[int]] = [[] for _ in acknowledged]
    foreign = 0
    for number in found:
        if number in owner:
            shares[owner[number]].append(number)
        else:
            foreign += 1
    faults = map(compare, acknowledged, shares)
    return sum(faults, Faults(duplicated=foreign))


def compare_states(events: Iterable[tuple[str, int]], states: Mapping[str, int]) -> Faults:
    """Count the keys whose latest state is not their last event.

    Args:
        events: the key and number of each event in the store, in its order.
        states: the number in the state of each key.
    """
    last = dict(events)
    return Faults(torn=sum(last.get(key) != states.get(key) for key in last.keys() | states.keys()))


def compare_once(wanted: Sequence[Hashable], found: Iterable[Hashable], left: int = 0) -> Faults:
    """Count the pieces of work that did not take effect exactly once, in any order.

    Args:
        wanted: what was acknowledged, without duplicates.
        found: the piece of work of each effect in the store.
        left: the number of pieces that the store will deliver again.
    """
    there = Counter(found)
    return Faults(
        lost=max(left, sum(not there[each] for each in wanted)),
        duplicated=there.total() - sum(bool(there[each]) for each in wanted),
    )


def compare_counts(acknowledged: int, found: int, distinct: int) -> Faults:
    """Count faults from counts, for runs that write too much to list.

    Args:
        acknowledged: the number of acknowledged events.
        found: the number of events in the store.
        distinct: the number of different events in the store.
    """
    return Faults(
        lost=max(0, acknowledged - distinct), duplicated=found - min(acknowledged, distinct)
    )
