"""`pgmem state`: read and change state entries, their history and their changes.

A value is JSON in both directions, so that `pgmem state get KEY | … | pgmem state set KEY -` works.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pgmem.cli.commands import Group
from pgmem.cli.options import DURATION, database_options, json_option, memory_of
from pgmem.cli.output import (
    Column,
    Table,
    json_text,
    moment,
    print_json,
    print_json_lines,
    print_line,
    say,
    short_moment,
)
from pgmem.cli.state_history import blame, change_data, history, value_text, version_text
from pgmem.errors import InvalidValue, PgmemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgmem import Memory, StateChange, StateEntry

PAGE = 200

ENTRIES = (
    Column("KEY", style="key"),
    Column("VERSION", right=True),
    Column("UPDATED", style="faint"),
    Column("EXPIRES", style="faint"),
    Column("VALUE"),
)
CHANGES = (
    Column("POSITION", right=True, width=8),
    Column("KEY", style="key", width=10),
    Column("VERSION", right=True),
    Column("AGENT", style="agent", width=6),
    Column("VALUE"),
)

_expected_version: Callable[..., Any] = click.option(
    "--expected-version",
    metavar="N",
    type=click.IntRange(min=0),
    help="Only if the entry has this version now.",
)


@click.group("state", cls=Group)
def app() -> None:
    """Read, change, list and watch state entries."""


@app.command(
    examples="""
    pgmem state get account:1

    # Only one field
    pgmem state get account:1 | jq .balance
    """,
)
@click.argument("key")
@database_options
@json_option
def get(key: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print the value of an entry. Exit code 1 if there is none.

    The value is JSON on stdout, its version is a line on stderr. With --json both are on stdout.
    """
    with memory_of(url, schema) as memory:
        entry = memory.state.get(key)
    if entry is None:
        _refuse_missing(key)
    if as_json:
        print_json(_entry_data(entry))
        return
    say(_about(entry))
    sys.stdout.write(f"{json_text(entry.value, indent=2)}\n")


@app.command(
    "set",
    # An argument that looks like an option may be a value, such as -5.
    context_settings={"ignore_unknown_options": True},
    examples="""
    pgmem state set account:1 '{"balance": 5}'

    # A string needs quotes of its own
    pgmem state set mode '"paused"' --ttl 12h

    # Change a field, unless another writer was faster
    pgmem state get account:1 | jq '.balance += 5' |
        pgmem state set account:1 - --expected-version 2
    """,
)
@click.argument("key")
@click.argument("value")
@_expected_version
@click.option("--create", is_flag=True, help="Only if there is no such entry.")
@click.option(
    "--ttl",
    metavar="TIME",
    type=DURATION,
    help="Lifetime from now, such as 30s, 12h or 7d. Default: no end; with --expected-version the "
    "end that the entry has.",
)
@database_options
@json_option
def set_(
    key: str,
    value: str,
    *,
    expected_version: int | None,
    create: bool,
    ttl: timedelta | None,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Write an entry. VALUE is JSON; `-` reads it from standard input.

    Without --expected-version or --create it replaces what is there.
    """
    if create and expected_version is not None:
        raise click.UsageError(
            "Give --create or --expected-version, not both.", click.get_current_context()
        )
    from pgmem import KEEP  # loads pydantic

    new = _parse(value)
    with memory_of(url, schema) as memory:
        if create:
            entry = memory.state.create(key, new, ttl=ttl)
        elif expected_version is None:
            entry = memory.state.put(key, new, ttl=ttl)
        else:
            entry = memory.state.compare_and_set(
                key, new, expected_version=expected_version, ttl=KEEP if ttl is None else ttl
            )
    if as_json:
        print_json(_entry_data(entry) | {"position": entry.position})
    else:
        print_line(_about(entry))


@app.command(
    examples="""
    pgmem state delete account:1
    pgmem state delete account:1 --expected-version 3
    """,
)
@click.argument("key")
@_expected_version
@database_options
@json_option
def delete(
    key: str, *, expected_version: int | None, url: str | None, schema: str, as_json: bool
) -> None:
    """Delete an entry; its history stays. Exit code 1 if there is none."""
    with memory_of(url, schema) as memory:
        if not memory.state.delete(key, expected_version=expected_version):
            _refuse_missing(key)
    if as_json:
        print_json({"key": key, "deleted": True})
    else:
        print_line(f"{key}: deleted")


@app.command(
    "list",
    examples="""
    pgmem state list
    pgmem state list account: --limit 20
    pgmem state list --json | jq -r .key
    """,
)
@click.argument("prefix", required=False, default="")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Print at most N entries.")
@database_options
@json_option
def list_(prefix: str, *, limit: int | None, url: str | None, schema: str, as_json: bool) -> None:
    """List the entries, ordered by key.

    With PREFIX only those whose key begins with it.
    With --json each entry is a JSON object on a line of its own.
    """
    table, empty = Table(*ENTRIES), True
    with memory_of(url, schema) as memory:
        for page in _entries(memory, prefix, limit):
            empty = False
            if as_json:
                print_json_lines(map(_entry_data, page))
            else:
                table.add(map(_entry_row, page))
    if empty and not as_json:
        say(f"no entries with a key that begins with {prefix!r}" if prefix else "no entries")


app.add_command(history)
app.add_command(blame)


@app.command(
    examples="""
    pgmem state watch
    pgmem state watch account: --json
    """,
)
@click.argument("prefix", required=False, default="")
@database_options
@json_option
def watch(prefix: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print each change of an entry as it is committed, until Ctrl-C.

    Of all entries, or of those whose key begins with PREFIX. With --json each change is a JSON
    object on a line of its own.
    """
    table = Table(*CHANGES)
    with memory_of(url, schema) as memory, memory.state.watch(prefix) as changes:
        while found := changes.receive():
            if as_json:
                print_json_lines(map(change_data, found))
            else:
                table.add(map(_change_row, found))
            sys.stdout.flush()


def _entries(memory: Memory, prefix: str, limit: int | None) -> Iterator[list[StateEntry]]:
    """Yield entries in pages, each of its own snapshot."""
    after, left = "", sys.maxsize if limit is None else limit
    while left and (page := memory.state.list(prefix, after=after, limit=min(PAGE, left))):
        yield page
        after, left = page[-1].key, left - len(page)


def _refuse_missing(key: str) -> NoReturn:
    raise PgmemError(
        f"there is no state entry {key!r}, or it has expired; `pgmem state list` shows the "
        f"entries, `pgmem state history` shows what happened to it"
    )


def _parse(text: str) -> Any:
    """Return the value that VALUE or standard input holds as JSON.

    Raises:
        InvalidValue: It is not JSON. The message does not show the value.
    """
    given = sys.stdin.buffer.read() if text == "-" else text
    where = "standard input" if text == "-" else "VALUE"
    try:
        return json.loads(given, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        hint = "; a string needs its own quotes: '\"text\"'" if text != "-" else ""
        raise InvalidValue(f"{where} is not JSON: {error}{hint}") from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{where} is not JSON: it is not UTF-8") from None
    except RecursionError:
        raise InvalidValue(f"{where} is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidValue("an object of the value has a key twice: one of them would be lost")
    return found


def _entry_data(entry: StateEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "version": entry.version,
        "value": entry.value,
        "updated_at": entry.updated_at,
        "expires_at": entry.expires_at,
    }


def _about(entry: StateEntry) -> str:
    end = "" if entry.expires_at is None else f", expires {moment(entry.expires_at)}"
    return f"{entry.key}: version {entry.version}, updated {moment(entry.updated_at)}{end}"


def _entry_row(entry: StateEntry) -> tuple[str, ...]:
    return (
        entry.key,
        f"{entry.version:,}",
        short_moment(entry.updated_at),
        "-" if entry.expires_at is None else short_moment(entry.expires_at),
        json_text(entry.value),
    )


def _change_row(change: StateChange) -> tuple[str, ...]:
    return (
        str(change.position),
        change.key,
        version_text(change),
        change.agent_id or "-",
        value_text(change),
    )
