"""Make a benchmark run with each kind of figure that a report contains."""

from __future__ import annotations

import random

from benchmarks import figures, harness
from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Course, Limit, Sample, Scenario, of_times
from benchmarks.report import Run

NASTY = """<script>alert("1")</script> & 'x' | *y* `z`"""


def timed(name, microseconds, kind="pgmem", tier="strict", note="", faults=None):
    rng = random.Random(name)

    def run():
        taken = figures.histogram(
            microseconds * 1_000 * rng.lognormvariate(0, 0.2) for _ in range(200)
        )
        spent = {"per second": 1e6 / microseconds, "log, B each": 612.0, "waits": 3.0}
        return of_times(taken, faults or Faults(), spent)

    return Arm(name, run, note, kind, tier)


def fixed(name, values, kind="pgmem", tier="strict", note=""):
    left = iter(values)
    return Arm(name, lambda: Sample(next(left)), note, kind, tier)


def measured():
    """Make a run with a scenario of each kind, and names that contain markup."""
    scenarios = [
        Scenario(
            "write/one",
            f"write: {NASTY}",
            "µs",
            [
                timed("pgmem", 100, note="`memory.events.append`"),
                timed("redis always", 200, "redis"),
                timed("pgmem relaxed", 60, tier="relaxed"),
                timed("redis everysec", 30, "redis", "relaxed"),
                timed("published", 150, "published", faults=Faults(lost=2, torn=1)),
                timed(NASTY, 90, "floor", note=NASTY),
            ],
            [
                Comparison("pgmem", "redis always", at_most=1.0),
                Comparison("pgmem", "redis always", at_most=0.01, figure="p99"),
                Comparison("pgmem relaxed", "redis everysec", at_most=1.1),
                Comparison("pgmem", NASTY),
            ],
            [Limit("pgmem", "waits", 5, always=True)],
            rounds=4,
        ),
        Scenario(
            "write/many",
            "write by many",
            "events/s",
            [
                fixed("pgmem", [900.0] * 5),
                fixed("redis", [1_000.0, 1_010, 990, 1_000, 1_005], "redis"),
            ],
            [Comparison("pgmem", "redis", at_most=1 / 1.2)],
            rounds=4,
        ),
        Scenario("lost", "no comparison", "lost", [fixed("nothing", [0.0] * 4)], rounds=3),
        Scenario(
            "growth",
            "rounds that go on",
            "kB",
            [
                fixed("level", [80.0, 96, 96, 96]),
                fixed("growing", [8_000.0, 16_000, 24_000, 32_000]),
            ],
            rounds=4,
            warmup=0,
            course=Course(50_000, "deliveries"),
        ),
    ]
    facts = {"machine": {"processor": NASTY, "fsync of 8 kB": "185 µs"}, "redis": {"save": ""}}
    return Run(
        facts,
        [harness.run(scenario) for scenario in scenarios],
        {"consumer <groups>": "none yet"},
        "python -m benchmarks --rounds 4",
        "2026-11-22 14:00 UTC",
    )
