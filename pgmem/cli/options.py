"""What the commands share: their common options, and how they print.

Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: a libpq or SQLAlchemy URL, or 'host=… dbname=…'. Else from "
        "PGMEM_DATABASE_URL, DATABASE_URL, or libpq's PG* variables.",
        show_default=False,
    ),
]
Schema = Annotated[
    str, typer.Option("--schema", metavar="NAME", help="The schema that holds pgmem's tables.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def out() -> Console:
    """The console for data. Made on each use, so that a redirected stdout is honoured."""
    return Console(highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line for a person, on stderr, as it is (no markup)."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


def print_json(data: object) -> None:
    """`data` as one JSON document on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2, default=str) + "\n")
