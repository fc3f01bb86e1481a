"""`pgmem state`: look at the latest state, change an entry by hand, and follow the changes.

Only the command lines and the looks; what is done is `memory.state`. A value is JSON on the way in
and out, so that `pgmem state get KEY | … | pgmem state set KEY -` works.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    duration,
    json_text,
    line,
    memory_of,
    moment,
    out,
    print_json,
    print_json_line,
    printable,
    say,
)
from pgmem.core.names import DEFAULT_SCHEMA
from pgmem.errors import InvalidOption, InvalidValue, PgmemError

if TYPE_CHECKING:
    from rich.text import Text

    from pgmem import Memory, RecordedEvent, StateChange, StateEntry

app = typer.Typer(
    help="Look at the latest state, change it, and follow its changes.", no_args_is_help=True
)

PAGE = 200
SHOWN = 200
"""Characters of a value in a list for people."""

Key = Annotated[str, typer.Argument(help="The entry's key.")]
Prefix = Annotated[
    str, typer.Argument(help="Only entries whose key begins so.", show_default=False)
]
ExpectedVersion = Annotated[
    int | None,
    typer.Option(
        "--expected-version",
        metavar="N",
        help="Only if the entry has this version now.",
        show_default=False,
    ),
]


@app.command()
def get(
    key: Key, url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False
) -> None:
    """Print the value of an entry; exit code 1 if there is none.

    The value is JSON on stdout, its version a line on stderr.
    """
    with memory_of(url, schema) as memory:
        entry = memory.state.get(key)
    if entry is None:
        _refuse_missing(key)
    if as_json:
        print_json(_entry_data(entry))
        return
    say(_about(entry))
    out().print(json_text(entry.value, indent=2), markup=False)


# What looks like an option may be a value, as -5; a mistyped option is one argument too many.
@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    key: Key,
    value: Annotated[
        str, typer.Argument(help="The new value as JSON; '-' reads it from standard input.")
    ],
    *,
    expected_version: ExpectedVersion = None,
    create: Annotated[
        bool, typer.Option("--create", help="Only if there is no such entry.")
    ] = False,
    ttl: Annotated[
        str | None,
        typer.Option(
            "--ttl",
            metavar="TIME",
            help="How long the entry lives from now, as 30s, 12h or 7d. Else for ever; with "
            "--expected-version, its end stays as it is.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Write an entry. The change is in the log, as every other one."""
    if create and expected_version is not None:
        raise InvalidOption("--create expects no entry: leave --expected-version out")
    lifetime = None if ttl is None else duration(ttl, "--ttl")
    new = _parse(value)
    with memory_of(url, schema) as memory:
        if create:
            entry = memory.state.create(key, new, ttl=lifetime)
        elif expected_version is None:
            entry = memory.state.put(key, new, ttl=lifetime)
        else:
            entry = memory.state.compare_and_set(
                key, new, expected_version=expected_version, ttl=lifetime
            )
    if as_json:
        print_json(_entry_data(entry) | {"position": entry.position})
    else:
        out().print(_about(entry), markup=False)


@app.command()
def delete(
    key: Key,
    *,
    expected_version: ExpectedVersion = None,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Delete an entry; exit code 1 if there is none. Its history stays."""
    with memory_of(url, schema) as memory:
        if not memory.state.delete(key, expected_version=expected_version):
            _refuse_missing(key)
    if as_json:
        print_json({"key": key, "deleted": True})
    else:
        out().print(f"{printable(key)}: deleted", markup=False)


@app.command("list")
def list_(
    prefix: Prefix = "",
    *,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="At most so many; else all.", show_default=False
        ),
    ] = None,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """List the entries, in the order of their keys.

    With --json each entry is one JSON object on a line of its own, with its whole value.
    """
    console = out()
    with memory_of(url, schema) as memory:
        for entry in islice(_entries(memory, prefix), limit):
            if as_json:
                print_json_line(_entry_data(entry))
            else:
                console.print(_entry_line(entry))


@app.command()
def history(
    key: Key, url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False
) -> None:
    """Print the recorded changes of an entry, oldest first; exit code 1 if there are none.

    With --json each change is one JSON object on a line of its own.
    """
    console = out()
    found = False
    with memory_of(url, schema) as memory:
        for event, change in _changes(memory, key):
            found = True
            if as_json:
                print_json_line(
                    _change_data(change) | {"type": event.type, "recorded_at": event.recorded_at}
                )
            else:
                console.print(_change_line(change, event))
    if not found:
        raise PgmemError(f"the log has no changes of the state {key!r}")


@app.command()
def watch(
    prefix: Prefix = "",
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Print each change of an entry as it comes, in order, until Ctrl-C.

    With --json each change is one JSON object on a line of its own.
    """
    console = out()
    with memory_of(url, schema) as memory, memory.state.watch(prefix) as changes:
        while found := changes.receive():
            for change in found:
                if as_json:
                    print_json_line(_change_data(change))
                else:
                    console.print(_change_line(change))
            sys.stdout.flush()


# --- what is asked of the memory ------------------------------------------------------------


def _entries(memory: Memory, prefix: str) -> Iterator[StateEntry]:
    """All entries, read page after page: not of one moment."""
    after = ""
    while page := memory.state.list(prefix, after=after, limit=PAGE):
        yield from page
        after = page[-1].key


def _changes(memory: Memory, key: str) -> Iterator[tuple[RecordedEvent, StateChange]]:
    after = 0
    while page := memory.state.history(key, after=after, limit=PAGE):
        for event in page:
            change = event.change
            if change is None or change.version is None:
                raise PgmemError(f"the event {event.position} is no change of the state {key!r}")
            yield event, change
            after = change.version


def _refuse_missing(key: str) -> NoReturn:
    raise PgmemError(
        f"there is no state entry {key!r}, or it has expired: `pgmem state list` tells which "
        f"there are, `pgmem state history` what became of it"
    )


# --- values ---------------------------------------------------------------------------------


def _parse(text: str) -> Any:
    """The value that was typed, or that came on stdin.

    Raises:
        InvalidValue: it is no JSON; the message does not show it.
    """
    given = sys.stdin.buffer.read() if text == "-" else text
    where = "standard input" if text == "-" else "VALUE"
    try:
        return json.loads(given, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        hint = "; a text needs its own quotes: '\"text\"'" if text != "-" else ""
        raise InvalidValue(f"{where} is no JSON: {error}{hint}") from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{where} is no JSON: it is no UTF-8") from None
    except RecursionError:
        raise InvalidValue(f"{where}: it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidValue("an object of the value has a key twice: one of them would be lost")
    return found


# --- looks ----------------------------------------------------------------------------------


def _entry_data(entry: StateEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "version": entry.version,
        "value": entry.value,
        "updated_at": entry.updated_at,
        "expires_at": entry.expires_at,
    }


def _change_data(change: StateChange) -> dict[str, Any]:
    return {
        "position": change.position,
        "key": change.key,
        "version": change.version,
        "deleted": change.deleted,
        "value": change.value,
        "expires_at": change.expires_at,
        "agent_id": change.agent_id,
    }


def _about(entry: StateEntry) -> str:
    end = "" if entry.expires_at is None else f", expires {moment(entry.expires_at)}"
    return f"{printable(entry.key)}: version {entry.version}, of {moment(entry.updated_at)}{end}"


def _entry_line(entry: StateEntry) -> Text:
    value = json_text(entry.value)
    end = "" if entry.expires_at is None else f"  expires {moment(entry.expires_at)}"
    return line(
        (entry.key, "cyan"),
        (f"  v{entry.version}", "bold"),
        (f"  {moment(entry.updated_at)}{end}", "dim"),
        (f"  {value if len(value) <= SHOWN else value[:SHOWN] + '…'}", ""),
    )


def _change_line(change: StateChange, event: RecordedEvent | None = None) -> Text:
    """A change for people; `event` if it is one of the past."""
    if change.deleted:
        what = "deleted"
    elif change.version is None:
        end = change.expires_at
        what = "expires never" if end is None else f"expires {moment(end)}"
    else:
        what = json_text(change.value)
    return line(
        (f"{change.position:>8}", "bold"),
        ("" if event is None else f"  {moment(event.recorded_at)}", "dim"),
        (f"  {change.key}", "cyan"),
        ("" if change.version is None else f"  v{change.version}", "bold"),
        ("" if event is None else f"  {event.type}", "green"),
        ("" if change.agent_id is None else f"  {change.agent_id}", "magenta"),
        (f"  {what}", ""),
    )
