"""The progress display and the summary tables of the demo.

On a terminal the display is redrawn in place. In a file, a pipe or a dumb terminal it is a plain
line now and then, without control sequences. Nothing is computed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pgmem.demo.conduct import Watcher
from pgmem.demo.scenario import FAULT_RATES, Scenario
from pgmem.demo.summary import MUST_BE_ZERO, PUBLISHED, Summary

# Of the 256-colour palette: readable on white and on black in every theme.
GOOD: Final = "bold color(64)"
BAD: Final = "bold color(160)"

LINE_EVERY: Final = 2.0
"""Seconds between two lines of progress."""
_FAULTS: Final = {
    "retry": "repeated as the same request",
    "resend": "repeated as a new request",
    "invalid": "invalid",
    "hot_pair": "one of two that reach a hot account at the same moment",
}
_STAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "received": ("received",),
    "validated": ("validated", "rejected"),
    "processed": ("processed", "declined", "rejected"),
    "notified": ("notified",),
}
"""The stages, each with the events that end it."""


class LineWatcher:
    """Prints plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin = time.monotonic()
        self._next = 0.0

    def progress(self, figures: Mapping[str, Any]) -> None:
        """Print a line every two seconds."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_EVERY
        stages = "  ".join(f"{stage} {_stage(figures, stage)}" for stage in _STAGES)
        self.moment(f"{stages}  conflicts {figures['conflicts']}  {_refused(figures)}")

    def moment(self, text: str) -> None:
        """Print a line at once."""
        seconds = time.monotonic() - self._begin
        say(self._console, f"{seconds:6.1f} s  {text}")


class LiveWatcher:
    """Redraws bars in place, with the latest moments below them."""

    def __init__(self, live: Live, payments: int) -> None:
        self._live = live
        self._payments = payments
        self._begin = time.monotonic()
        self._moments: list[str] = []
        self._figures: Mapping[str, Any] = dict.fromkeys(
            (*_STAGES, "rejected", "declined", "sent", "conflicts", "duplicates"), 0
        )

    def progress(self, figures: Mapping[str, Any]) -> None:
        """Redraw the bars."""
        self._figures = figures
        self._draw()

    def moment(self, text: str) -> None:
        """Add a line."""
        self._moments.append(f"{time.monotonic() - self._begin:5.1f} s  {text}")
        self._draw()

    def _draw(self) -> None:
        bars = Table.grid(padding=(0, 2))
        for stage in _STAGES:
            done = sum(self._figures[name] for name in _STAGES[stage])
            bar = ProgressBar(total=self._payments, completed=min(done, self._payments), width=40)
            bars.add_row(stage, bar, Text(_stage(self._figures, stage)))
        counts = Text(f"conflicts {self._figures['conflicts']}   {_refused(self._figures)}")
        moments = [Text(moment) for moment in self._moments[-6:]]
        self._live.update(Group(bars, counts, *moments))


def _stage(figures: Mapping[str, Any], stage: str) -> str:
    """Return the count of a stage, with what was rejected or declined in it."""
    other = {"validated": "rejected", "processed": "declined"}.get(stage)
    count = f"{figures[stage]:,}"
    return f"{count} ({figures[other]:,} {other})" if other and figures[other] else count


def _refused(figures: Mapping[str, Any]) -> str:
    at_append = figures["sent"] - figures["received"]
    return f"duplicates {max(0, at_append) + figures['duplicates']}"


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line of text as it is. Outside of a terminal it is never wrapped."""
    wrap = not console.is_terminal
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=wrap)


@contextmanager
def watcher(console: Console, scenario: Scenario) -> Iterator[Watcher]:
    """Give the display that fits the console."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineWatcher(console)
        return
    with Live(console=console, refresh_per_second=8) as live:
        yield LiveWatcher(live, scenario.payments)


def print_faults(console: Console, scenario: Scenario, victim: str | None) -> None:
    """Print the scenario and its faults."""
    counts = scenario.faults()
    total = sum(sending.payment.amount for sending in scenario.sendings if not sending.fault)
    say(
        console,
        f"{scenario.payments:,} payments between {len(scenario.opening)} accounts, "
        f"{total:,} VND, about {scenario.rate:g} payments per second, seed {scenario.seed}",
    )
    say(console, "Faults, with their share of the payments:")
    for kind, words in _FAULTS.items():
        say(console, f"  {FAULT_RATES[kind]:>4.0%}  {counts[kind]:>5,}  {words}")
    if victim:
        say(console, f"            1  kill -9 of the {victim} half way, with transactions open")
    console.print()


Row = tuple[str, str, bool]
"""Name, value, and True if the value must be zero."""


def rows(summary: Summary) -> list[Row]:
    """Return the rows of the summary."""
    f = summary.figures
    zero = [
        (words, _count(f[name]), True)
        for name, words in MUST_BE_ZERO.items()
        if name in summary.must_be_zero() and name != "manual_work"
    ]
    manual = f"{_count(f['manual_work'])} ({summary.percent('manual_work'):.1f} %)"
    return [
        ("payments", _count(f["payments"]), False),
        ("requests sent", _count(f["requests_sent"]), False),
        ("events in the log", _count(f["events"]), False),
        ("payments booked", _count(f["booked"]), False),
        ("payments declined, no funds", _count(f["declined"]), False),
        ("invalid payments refused", _count(f["invalid_refused"]), False),
        ("conflicts", _count(f["conflicts"]), False),
        ("conflicts resolved", _count(f["conflicts_resolved"]), False),
        ("duplicate requests, found at append", _count(f["duplicates_at_append"]), False),
        ("duplicate payments, found by agents", _count(f["duplicates_at_work"]), False),
        ("redelivered after the kill, not redone", _count(f["redelivered"]), False),
        *zero,
        (MUST_BE_ZERO["manual_work"], manual, True),
        *_times(f),
    ]


def _times(f: Mapping[str, Any]) -> list[Row]:
    return [
        *(
            (f"arrival to notified, {name}", _ms(f[f"latency_{name}_ms"]), False)
            for name in ("mean", "p50", "p95", "p99")
        ),
        ("transactions cut off by the kill", _count(f["killed_transactions"]), False),
        ("kill to first new effect", _seconds(f["recovery_seconds"]), False),
        ("duration", _seconds(f["seconds"]), False),
        ("payments per second", f"{f['payments_per_second'] or 0:.0f}", False),
    ]


def _count(number: int) -> str:
    return f"{number:,}"


def _ms(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f} ms"


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f} s"


def _table(console: Console, title: str) -> Table:
    plain = not console.is_terminal or console.is_dumb_terminal
    return Table(
        title=title, title_justify="left", box=box.ASCII2 if plain else box.ROUNDED, expand=False
    )


def _verdict(text: str, must_be_zero: bool) -> Text:
    if not must_be_zero:
        return Text(text, justify="right")
    fine = text.split(" ", maxsplit=1)[0] == "0"
    return Text(text, style=GOOD if fine else BAD, justify="right")


def print_summary(console: Console, summary: Summary) -> None:
    """Print one run as a table."""
    table = _table(console, "Summary, computed from the database")
    table.add_column("figure")
    table.add_column("value", justify="right", no_wrap=True)
    for words, value, must_be_zero in rows(summary):
        table.add_row(words, _verdict(value, must_be_zero))
    console.print(table)


def print_comparison(console: Console, shared: Summary, isolated: Summary) -> None:
    """Print both runs side by side, then beside the figures of the article."""
    table = _table(console, "The same payments and faults, computed from the database")
    table.add_column("figure")
    for heading in ("messages only", "shared memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    theirs = {words: value for words, value, _ in rows(isolated)}
    for words, value, must_be_zero in rows(shared):
        value_there = theirs.get(words, "-")
        table.add_row(
            words,
            _verdict(value_there, must_be_zero and value_there != "-"),
            _verdict(value, must_be_zero),
        )
    console.print(table)
    console.print(_published(console, shared, isolated))


def _published(console: Console, shared: Summary, isolated: Summary) -> Table:
    without, with_ = PUBLISHED["without_memory"], PUBLISHED["with_memory"]
    table = _table(console, "Beside the figures that the article published")
    table.add_column("figure")
    for heading in ("messages only", "shared memory", "published"):
        table.add_column(heading, justify="right")
    table.add_row(
        "payments needing manual work",
        f"{isolated.percent('manual_work'):.1f} %",
        f"{shared.percent('manual_work'):.1f} %",
        f"{without['manual_percent']:g} % → {with_['manual_percent']:g} %",
    )
    table.add_row(
        "payments with a wrong result",
        f"{isolated.percent('errors'):.1f} %",
        f"{shared.percent('errors'):.1f} %",
        f"{without['errors_percent']:g} % → {with_['errors_percent']:g} %",
    )
    table.add_row(
        "mean latency",
        _ms(isolated.figures["latency_mean_ms"]),
        _ms(shared.figures["latency_mean_ms"]),
        f"{without['latency_seconds']:g} s → {with_['latency_seconds']:g} s",
    )
    return table


ABOUT_MANUAL: Final = (
    "A payment needs manual work if its result is wrong: applied twice, no outcome or two, booked "
    "without funds or although invalid, or its payer told a wrong outcome. It also does if its "
    "booking wrote a balance that missed an earlier booking."
)
ABOUT_ISOLATED: Final = (
    '"Messages only" is the same three agents with the same rules, and the same log as a broker '
    "that delivers at least once. Each worker keeps its own copy of the balances and its own list "
    "of what it has seen. Workers tell each other by message what they booked. Books and broker "
    "are two systems. A killed agent has only the books, and reads again what it had not "
    "acknowledged. There are no idempotency keys, no versions and no dedupe records. Nothing in "
    "it sleeps or fails on purpose. It does less for each payment, so on an idle machine it is "
    "faster. The runs follow each other, so other load on the machine shows in the times. Another "
    "mix of faults gives other figures. The published figures are of another system under another "
    "load. They are shown, not measured."
)
