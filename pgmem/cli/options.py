"""Options and types of arguments that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from pgmem.core.names import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from pgmem import Memory

F = TypeVar("F", bound=Callable[..., Any])

url_option = click.option(
    "--url",
    metavar="URL",
    help="The database: a libpq or SQLAlchemy URL, or 'host=… dbname=…'. Default: "
    "PGMEM_DATABASE_URL, DATABASE_URL, or libpq's PG* variables.",
)
schema_option = click.option(
    "--schema",
    metavar="NAME",
    default=DEFAULT_SCHEMA,
    show_default=True,
    help="The schema that holds pgmem's tables.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def database_options(function: F) -> F:
    """Add `--url` and `--schema` to a command."""
    return url_option(schema_option(function))


def memory_of(url: str | None, schema: str, *, pool: int | tuple[int, int] = 1) -> Memory:
    """Return the memory that the options name, not open yet.

    The library is imported here so that help and wrong usage are answered without it.
    """
    from pgmem import Memory

    return Memory(url, schema=schema, pool=pool)


_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw])", flags=re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A number and a unit, such as `30s`, `1.5h` or `7d`, as a timedelta."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Parse the text.

        Raises:
            click.BadParameter: The text is not a number with a unit, or the time is too long.
        """
        if isinstance(value, timedelta):
            return value
        found = _DURATION.fullmatch(value)
        try:
            if found is not None:
                return timedelta(**{_UNITS[found[2]]: float(found[1])})
        except OverflowError:
            pass  # thousands of years
        self.fail(
            f"{value[:40]!r} is not a number with a unit (s, m, h, d or w), such as 30s or 7d.",
            param,
            ctx,
        )


class Position(click.ParamType):  # type: ignore[type-arg]  # as Duration
    """A position in the log, or the word `now`."""

    name = "position"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["now"]:
        """Parse the text.

        Raises:
            click.BadParameter: The text is neither `now` nor a number of 0 or more.
        """
        if isinstance(value, int):
            return value
        if value == "now":
            return "now"
        if not (value.isascii() and value.isdecimal()):
            self.fail(f"{value[:40]!r} is not a position (0 or more) or 'now'.", param, ctx)
        return int(value)


DURATION = Duration()
POSITION = Position()
