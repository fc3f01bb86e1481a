"""Write the reference page of the command line from the help of every command.

The page is made anew at every build and is not in the repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pgmem.cli.app import app

INTRODUCTION = """\
# Command line

Data goes to stdout, everything else to stderr. Exit codes: 0, 1 for an error, 2 for wrong usage,
130 after Ctrl-C. No message shows a password or a value that could not be written. Control
characters in what is printed are escaped; in JSON they still mean the same. On a terminal tables
are cut to its width and have colours, unless `NO_COLOR` is set. In a pipe or a file nothing is cut.
"""


def write(path: Path) -> None:
    """Write the page; replace that of an earlier build."""
    text = page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def page() -> str:
    """Return the page: an introduction, then the help of each command."""
    parts = [INTRODUCTION]
    for name, context in commands():
        parts.append(f"## `{name}`\n\n```text\n{context.get_help()}\n```\n")
    return "\n".join(parts)


def commands(parent: click.Context | None = None) -> Iterator[tuple[str, click.Context]]:
    """Yield every command and group with its words and its context."""
    if parent is None:
        parent = app.context_class(app, info_name="pgmem", terminal_width=90)
        yield "pgmem", parent
    group = parent.command
    assert isinstance(group, click.Group)  # noqa: S101 - called with groups only
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, parent=parent, info_name=name)
        yield context.command_path, context
        if isinstance(command, click.Group):
            yield from commands(context)
