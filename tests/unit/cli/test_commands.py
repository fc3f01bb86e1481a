"""Help, examples, wrong usage, exit codes and start-up of every command. No server is asked."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest

from pgmem.cli import app as app_module
from pgmem.cli.app import app
from pgmem.cli.commands import Command
from pgmem.errors import PgmemError


def commands(group=app, path=("pgmem",)):
    """Return all commands that do something, by their words."""
    found = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found |= commands(command, (*path, name))
        else:
            found[" ".join((*path, name))] = command
    return found


COMMANDS = commands()
GROUPS = sorted({name.rsplit(" ", 1)[0] for name in COMMANDS})


@pytest.mark.parametrize("name", [*GROUPS, *COMMANDS])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_by_both_options(pgmem, name, option):
    code, out, err = pgmem(*name.split()[1:], option)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {name} ")


@pytest.mark.parametrize("name", GROUPS)
def test_group_without_a_command_prints_its_help(pgmem, name):
    code, out, err = pgmem(*name.split()[1:])
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_explains_every_option(pgmem, name):
    command = COMMANDS[name]
    out = pgmem(*name.split()[1:], "--help")[1]
    assert "\nExamples:\n" in out
    assert any(line.startswith(name) for line in command.examples)
    assert command.help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, param.name


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid_command_lines(name):
    text = "\n".join(COMMANDS[name].examples).replace("|\n", "| ")
    for line in text.splitlines():
        for part in re.split(r" \| | && ", line):
            if not part.strip().startswith("pgmem "):
                continue
            words = shlex.split(part.split(" > ")[0], comments=True)[1:]
            command, info = app, "pgmem"
            while isinstance(command, click.Group):
                info = words.pop(0)
                command = command.get_command(click.Context(command), info)
            command.make_context(info, words)  # raises if it is not valid


@pytest.mark.parametrize("name", ["pgmem", *GROUPS])
def test_summaries_fit_80_columns(pgmem, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = pgmem(*name.split()[1:], "--help")[1]
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_use_a_database_take_url_and_schema(name):
    options = {param.name for param in COMMANDS[name].params}
    without = ("completion", "dev", "demo", "migrate sql")
    assert ({"url", "schema"} <= options) != name.endswith(without)


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name.endswith((" list", " show", " get"))]
)
def test_commands_that_print_data_take_json(name):
    assert "as_json" in {param.name for param in COMMANDS[name].params}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tial"], "pgmem: No such command 'tial'. Did you mean 'tail'?"),
        (["groups", "lst"], "pgmem groups: No such command 'lst'. Did you mean 'list'?"),
        (["--nothing"], "pgmem: No such option"),
        (["migrate", "up", "--nothing"], "pgmem migrate up: No such option"),
        (["migrate", "down"], "pgmem migrate down: Missing argument 'REVISION'"),
        (["migrate", "grant"], "Give one of --reader, --appender, --agent, --operator, --janitor."),
        (["tail", "--after", "soon"], "'soon' is not a position (0 or more) or 'now'"),
        (["tail", "a", "--prefix", "b"], "Give STREAM or --prefix, not both."),
        (["state", "set", "k", "1", "--ttl", "5"], "'5' is not a number with a unit"),
        (["state", "set", "k", "1", "--create", "--expected-version", "1"], "Give --create or"),
        (["groups", "reset", "g", "soon"], "'POSITION'"),
        (["groups", "pending", "g", "--limit", "0"], "--limit"),
        (["leases", "release", "l"], "Missing option '--token'"),
        (["retention", "set"], "Give --max-events or --max-age."),
        (["retention", "remove", "--folds", "--snapshots"], "Give --folds or --snapshots"),
        (["maintain", "--every", "0s"], "'--every'"),
        (["import-redis", "redis://", "--follow", "--cut-over"], "exclude each other"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(pgmem, arguments, said):
    code, out, err = pgmem(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert said in first
    assert re.fullmatch(r"Try 'pgmem[a-z -]* --help'\.", second)


def raising(error, *options):
    def callback(**_):
        raise error

    return Command("probe", callback=callback, params=list(options))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PgmemError("two\nlines \x1b[31m"), 1, "pgmem: two lines \\x1b[31m\n"),
        (PgmemError(""), 1, "pgmem: PgmemError\n"),
        (FileNotFoundError(2, "No such file", "a/b"), 1, "pgmem: a/b: No such file\n"),
        (click.Abort(), 1, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_are_one_line_without_a_traceback(pgmem, monkeypatch, error, code, said):
    monkeypatch.setattr(app, "get_command", lambda *_: raising(error))
    assert pgmem("probe") == (code, "", said)


def test_messages_name_options_and_not_parameters(pgmem, monkeypatch):
    error = PgmemError("expected_version and stream= of a stream are wrong, and name= is")
    options = [
        click.Option(["--expected-version"], expose_value=False),
        click.Option(["--stream"], expose_value=False),
        click.Argument(["name"], required=False, expose_value=False),
    ]
    monkeypatch.setattr(app, "get_command", lambda *_: raising(error, *options))
    assert pgmem("probe")[2] == (
        "pgmem: --expected-version and --stream of a stream are wrong, and NAME is\n"
    )


@pytest.mark.parametrize(
    ("call", "command"),
    [
        ("memory.retention.set", "`pgmem retention set`"),
        ("`memory.groups.delete('a b')`", "`pgmem groups delete a b`"),
        ("memory.subscriptions.reset('a', after=5)", "`pgmem subscriptions reset a`"),
        ("memory.events.read", "memory.events.read"),
        ("memory.state.update", "memory.state.update"),
    ],
)
def test_messages_name_commands_where_there_are_some(call, command):
    assert Command("probe").reworded(f"use {call} instead") == f"use {command} instead"


def test_other_exceptions_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(app, "get_command", lambda *_: raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        app_module.main(["probe"])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_script_asks_pgmem(pgmem, shell):
    code, out, err = pgmem("completion", shell)
    assert (code, err) == (0, "")
    assert "_PGMEM_COMPLETE" in out


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("pgmem gro", "gro", ["plain,groups"]),
        ("pgmem groups re", "re", ["plain,requeue", "plain,reset"]),
        ("pgmem tail --pre", "--pre", ["plain,--prefix"]),
        ("pgmem demo --kill pro", "pro", ["plain,processor"]),
    ],
)
def test_commands_options_and_choices_are_completed(pgmem, monkeypatch, line, word, found):
    monkeypatch.setenv("_PGMEM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    code, out, _ = pgmem()
    assert (code, out.splitlines()) == (0, found)


SLOW = {"alembic", "asyncio", "psycopg", "pydantic", "rich", "sqlalchemy"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["tail", "--nothing"]])
def test_version_help_and_wrong_usage_load_nothing_slow(arguments):
    code = (
        "import sys\n"
        "from pgmem.cli import main\n"
        "try:\n"
        f"    sys.argv[1:] = {arguments!r}\n"
        "    main()\n"
        "except SystemExit:\n"
        f"    sys.exit(sorted({SLOW!r} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
