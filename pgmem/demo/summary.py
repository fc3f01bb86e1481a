"""What became of a run, asked from the database and from nothing else.

It must be able to fail: it looks for what must not be there, and no agent can tell it that all is
well. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pgmem import Memory
from pgmem.demo import bank
from pgmem.demo.run import Mode, Run

MUST_BE_ZERO: Final[Mapping[str, str]] = {
    "applied_twice": "payments applied twice",
    "balances_off": "balances that do not add up",
    "money_difference": "VND that appeared or vanished",
    "booked_on_stale_balance": "bookings on an outdated balance",
    "overdrawn": "bookings without funds",
    "invalid_booked": "invalid payments booked",
    "contradictory": "payments with contradictory ends",
    "told_wrong": "payers told something else",
    "without_end": "payments without an end",
    "errors": "payments with a wrong result",
    "manual_work": "payments needing manual work",
    "conflicts_unresolved": "conflicts not resolved",
    "booked_without_mark": "bookings without their mark",
}
"""Figures that a memory which keeps its promises leaves at zero, in words."""

PUBLISHED: Final[Mapping[str, Mapping[str, float]]] = {
    "without_memory": {"manual_percent": 23.0, "errors_percent": 4.7, "latency_seconds": 12.0},
    "with_memory": {"manual_percent": 1.2, "errors_percent": 0.3, "latency_seconds": 2.8},
}
"""The article's figures for its own system. Not ours: a column to look at beside."""

QUERIES: Final = ("activity", "payments", "balances", "times", "recovery")


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run, by the names of the SQL files' columns."""

    run: str
    mode: Mode
    figures: Mapping[str, Any]

    def wrong(self) -> dict[str, Any]:
        """What must be zero and is not, by name."""
        return {name: self.figures[name] for name in self.must_be_zero() if self.figures[name]}

    def must_be_zero(self) -> list[str]:
        """The names of what must be zero; without a shared memory there are no marks."""
        names = list(MUST_BE_ZERO)
        return names if self.mode == "shared" else names[:-1]

    def percent(self, name: str) -> float:
        """A figure as a share of the payments."""
        return 100.0 * int(self.figures[name]) / max(1, int(self.figures["payments"]))

    def to_json(self) -> dict[str, Any]:
        """The summary for programs."""
        return {
            "run": self.run,
            "mode": self.mode,
            "ok": not self.wrong(),
            "wrong": self.wrong(),
            "figures": dict(self.figures),
        }


def summarize(memory: Memory, run: Run) -> Summary:
    """Ask the database what became of a run."""
    figures: dict[str, Any] = {}
    with memory.transaction() as tx:
        # One snapshot for all the questions.
        tx.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name in QUERIES:
            figures.update(bank.ask(tx.connection, name, run.sql_params()))
    figures["conflicts_unresolved"] = figures["conflicts"] - figures["conflicts_resolved"]
    if run.mode == "isolated":
        del figures["booked_without_mark"]
    return Summary(run.id, run.mode, figures)
