"""The reference page holds every command; the docs name only commands and options that exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from pgmem.cli.app import app

CHECKOUT = Path(__file__).parents[3]
sys.path.insert(0, str(CHECKOUT / "docs"))

import cli_pages  # noqa: E402  # found by the line above

CONTEXTS = dict(cli_pages.commands())
GENERATED = CHECKOUT / "docs" / "reference" / "cli.md"
PAGES = [CHECKOUT / "README.md", *sorted(set((CHECKOUT / "docs").rglob("*.md")) - {GENERATED})]

_FENCED = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`(pgmem [^`]*)`(?!`)")


def command_lines(text):
    """Return what begins with `pgmem` in shell blocks and in inline code."""
    found = [match[1] for match in _INLINE.finditer(text)]
    for block in _FENCED.finditer(text):
        for line in block[1].replace("\\\n", " ").splitlines():
            for part in re.split(r"\s\|\s|&&|;", line.removeprefix("$ ")):
                words = part.strip().split(" ", 1)
                if words[0].rsplit("/", 1)[-1] == "pgmem":
                    found.append(f"pgmem {words[1]}" if len(words) > 1 else "pgmem")
    return found


def problem(line):
    """Return what is wrong with a command line, or None. Arguments may be left out."""
    words = shlex.split(line, comments=True)[1:]
    name = "pgmem"
    while words and isinstance(CONTEXTS[name].command, click.Group):
        word = words[0]
        if word.startswith("-") or not re.fullmatch(r"[a-z-]+", word):
            break
        name = f"{name} {words.pop(0)}"
        if name not in CONTEXTS:
            return f"there is no command `{name}`"
    options = {"--help", "-h"}
    for param in CONTEXTS[name].command.params:
        options |= {*param.opts, *param.secondary_opts}
    for word in words:
        option = word.partition("=")[0]
        if re.match(r"--?[a-z]", option) and option not in options:
            return f"`{name}` has no option {option}"
    return None


def test_reference_page_holds_every_command_with_all_options():
    page = cli_pages.page()
    for name, context in CONTEXTS.items():
        section = page.split(f"## `{name}`\n")[1].split("\n## ")[0]
        for param in context.command.params:
            if isinstance(param, click.Option):
                assert all(option in section for option in param.opts), (name, param.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_command_lines_in_the_docs_exist(page):
    lines = command_lines(page.read_text(encoding="utf-8"))
    assert [found for line in lines if (found := problem(line))] == []


def test_wrong_command_lines_are_noticed():
    assert problem("pgmem groups list --json") is None
    assert problem("pgmem state set KEY -5") is None
    assert problem("pgmem groups lst") == "there is no command `pgmem groups lst`"
    assert problem("pgmem trim --nothing") == "`pgmem trim` has no option --nothing"
    text = "```sh\n.venv/bin/pgmem trim --nothing\n```\nand `pgmem nothing`"
    assert command_lines(text) == ["pgmem nothing", "pgmem trim --nothing"]


def test_the_root_command_is_the_one_that_is_installed():
    assert CONTEXTS["pgmem"].command is app
