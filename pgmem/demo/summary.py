"""The result of a run, computed from the database alone.

It must be able to fail. So it searches for what must not be there, and takes no agent's word for
it. It changes nothing.
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
    "balances_off": "balances that are wrong",
    "money_difference": "VND that appeared or vanished",
    "booked_on_stale_balance": "bookings on an outdated balance",
    "overdrawn": "bookings without funds",
    "invalid_booked": "invalid payments booked",
    "contradictory": "payments with contradictory outcomes",
    "told_wrong": "payers told a wrong outcome",
    "without_end": "payments without an outcome",
    "errors": "payments with a wrong result",
    "manual_work": "payments needing manual work",
    "conflicts_unresolved": "conflicts not resolved",
    "booked_without_record": "bookings without a dedupe record",
}
"""Figures that are zero if the memory keeps its guarantees, with their names."""

PUBLISHED: Final[Mapping[str, Mapping[str, float]]] = {
    "without_memory": {"manual_percent": 23.0, "errors_percent": 4.7, "latency_seconds": 12.0},
    "with_memory": {"manual_percent": 1.2, "errors_percent": 0.3, "latency_seconds": 2.8},
}
"""The figures that the article published of its own system."""

QUERIES: Final = ("activity", "payments", "balances", "times", "recovery")


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run, named as the columns of the SQL files."""

    run: str
    mode: Mode
    figures: Mapping[str, Any]

    def wrong(self) -> dict[str, Any]:
        """Return the figures that must be zero and are not."""
        return {name: self.figures[name] for name in self.must_be_zero() if self.figures[name]}

    def must_be_zero(self) -> list[str]:
        """Return the names of the figures that must be zero in this mode."""
        names = list(MUST_BE_ZERO)
        # Without a shared memory there are no dedupe records.
        return names if self.mode == "shared" else names[:-1]

    def percent(self, name: str) -> float:
        """Return a figure in percent of the payments."""
        return 100.0 * int(self.figures[name]) / max(1, int(self.figures["payments"]))

    def to_json(self) -> dict[str, Any]:
        """Return the summary for programs."""
        return {
            "run": self.run,
            "mode": self.mode,
            "ok": not self.wrong(),
            "wrong": self.wrong(),
            "figures": dict(self.figures),
        }


def summarize(memory: Memory, run: Run) -> Summary:
    """Compute the summary of a run from the database."""
    figures: dict[str, Any] = {}
    with memory.transaction() as tx:
        # one snapshot for all queries
        tx.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name in QUERIES:
            figures.update(bank.ask(tx.connection, name, run.sql_params()))
    figures["conflicts_unresolved"] = figures["conflicts"] - figures["conflicts_resolved"]
    if run.mode == "isolated":
        del figures["booked_without_record"]
    return Summary(run.id, run.mode, figures)
