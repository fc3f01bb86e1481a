"""Every command and option of `pgmem` is documented in docs/, and nothing else is.

A command is documented by a heading that begins with it, such as "### `pgmem migrate up`". The
text below, up to the next heading, names each option (and each argument, in the heading or there).
"""

import re
from pathlib import Path

import pytest
import typer.main

from pgmem.cli.app import app

DOCS = Path(__file__).parents[3] / "docs"

_HEADING = re.compile(r"^#{2,6} `(pgmem[^`]*)`.*$", flags=re.MULTILINE)
_ANY_HEADING = re.compile(r"^#{1,6} ", flags=re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def commands(command=None, path=("pgmem",)):
    """The commands that do something, and `pgmem` itself for its own options, by their words."""
    command = command or typer.main.get_command(app)
    found = {" ".join(path): command}
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            found |= commands(below, (*path, name))
    return found


def sections(text):
    """The documented commands: their words, the heading, and the text below it."""
    found = {}
    for match in _HEADING.finditer(text):
        end = _ANY_HEADING.search(text, match.end())
        words = [w for w in match[1].split() if re.fullmatch(r"[a-z][a-z-]*", w)]
        body = text[match.end() : end.start() if end else len(text)]
        found[" ".join(words)] = f"{match[0]}\n{body}"
    return found


def options(command):
    shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    names = {name for p in shown for name in (*p.opts, *p.secondary_opts)}
    return {name for name in names if name.startswith("--")} - {"--help"}


def arguments(command):
    named = [p for p in command.params if p.param_type_name == "argument" and not p.hidden]
    return {p.metavar or p.name.upper() for p in named}


def missing(command, section):
    """What a command's section does not name."""
    wanted = options(command) | arguments(command)
    return {word for word in wanted if not re.search(rf"(?<![\w-]){word}(?![\w-])", section)}


COMMANDS = {
    name: command for name, command in commands().items() if options(command) or name.count(" ")
}
DOCUMENTED = {}
for page in sorted(DOCS.rglob("*.md")):
    DOCUMENTED |= sections(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_documented_with_all_its_options(name):
    command = COMMANDS[name]
    if getattr(command, "commands", None) and not options(command):
        return  # a group: its commands are documented
    assert name in DOCUMENTED, f"no heading `{name}` in docs/"
    assert missing(command, DOCUMENTED[name]) == set()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_is_documented_exists(name):
    assert name in COMMANDS
    mentioned = set(_OPTION.findall(DOCUMENTED[name]))
    assert mentioned - options(COMMANDS[name]) - {"--help"} == set()


def test_a_missing_option_would_be_noticed():
    section = DOCUMENTED["pgmem migrate up"]
    assert missing(COMMANDS["pgmem migrate up"], section.replace("--schema", "")) == {"--schema"}
    assert missing(COMMANDS["pgmem migrate up"], section.replace("REVISION", "")) == {"REVISION"}
