"""Report a run: console, JSON, HTML page, Markdown, headline chart.

- `data`: store a run as JSON, and read it back.
- `content`: choose, round and name what a report says.
- `console`: print tables on a terminal during the run.
- `charts`: draw the charts with matplotlib.
- `document`: write the report as Markdown or as one HTML page.

The last two are imported only to write a report: matplotlib is not loaded while arms run.
"""

from __future__ import annotations

from benchmarks.report.console import print_facts, print_result, print_summary
from benchmarks.report.content import Content
from benchmarks.report.data import DataError, Run, read_json, write_json

__all__ = [
    "Content",
    "DataError",
    "Run",
    "print_facts",
    "print_result",
    "print_summary",
    "read_json",
    "write_json",
]
