"""The results, for people and for programs: console, JSON, HTML page, Markdown, headline chart.

Tells what it is given; what a figure means and whether a target is met is the harness's matter.

==============  ====================================================================
`data`          a run as JSON, and back: what was measured can be told again
`content`       what is told, and in what order and words, however it looks
`console`       while the run goes on: tables on a terminal
`page`          one HTML file that loads nothing
`markdown`      the same with its plots beside it, for a repository
`chart`         the distribution of times, or the rounds, of a scenario's arms
`forest`        pgmem beside Redis at the equal promise, all scenarios in one chart
`axis`          scales, ticks, and the looks of arms
`markup`        elements of HTML and SVG as text; the one place that escapes
==============  ====================================================================
"""

from __future__ import annotations

from benchmarks.report.console import print_facts, print_result, print_summary
from benchmarks.report.content import Content
from benchmarks.report.data import DataError, Run, read_json, write_json
from benchmarks.report.forest import headline
from benchmarks.report.markdown import write_markdown
from benchmarks.report.page import page

__all__ = [
    "Content",
    "DataError",
    "Run",
    "headline",
    "page",
    "print_facts",
    "print_result",
    "print_summary",
    "read_json",
    "write_json",
    "write_markdown",
]
