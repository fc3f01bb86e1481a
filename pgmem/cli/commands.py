"""The classes behind every command: help with examples, errors, subcommands imported on use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from pgmem.errors import PgmemError

_CALL = re.compile(
    r"`?memory\.(?P<group>[a-z]+)\.(?P<verb>[a-z_]+)(?:\((?:'(?P<name>[^']*)')?[^()]*\))?`?"
)


def _as_command(call: re.Match[str]) -> str:
    """Return the command that does what a call does; the call itself if there is none."""
    from pgmem.cli.app import app

    group = app.get_command(click.Context(app), call["group"])
    if not isinstance(group, click.Group) or call["verb"] not in group.commands:
        return call[0]
    words = ("pgmem", call["group"], call["verb"], call["name"])
    return f"`{' '.join(word for word in words if word)}`"


class _ShortHelp(click.Command):
    """A command that prints its help for `-h` too."""

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        return ["-h", "--help"]


class Command(_ShortHelp):
    """A command with examples in its help, and the library's errors in its own words.

    Args:
        examples: Command lines and `#` comments, one a line. Printed as they are.
    """

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = inspect.cleandoc(examples).splitlines()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: In place of an error of the library.
        """
        try:
            return super().invoke(ctx)
        except PgmemError as error:
            raise click.ClickException(self.reworded(str(error) or type(error).__name__)) from error

    def reworded(self, message: str) -> str:
        """Return a message with commands and options in place of the library's calls.

        `memory.groups.delete('a')` becomes `pgmem groups delete a`, `expected_version` becomes
        `--expected-version`, and `stream=` becomes `--stream`. A parameter that may also be a word
        of the sentence, such as `stream`, stays.
        """
        message = _CALL.sub(_as_command, message)
        for param in self.params:
            name = re.escape(param.name or "")
            pattern = rf"\b{name}\b=?" if "_" in name else rf"\b{name}="
            is_option = isinstance(param, click.Option)
            message = re.sub(pattern, param.opts[0] if is_option else name.upper(), message)
        return message

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples after the options."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n" if line else "\n")


class Group(_ShortHelp, click.Group):
    """A command with subcommands. Prints its help if no subcommand is given."""

    command_class = Command

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.no_args_is_help = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help on stdout and exit with 0 if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; suggest similar names if there is none."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        similar = get_close_matches(name, self.list_commands(ctx), n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx=ctx)


class LazyGroup(Group):
    """A group that imports a subcommand's module when the subcommand is used.

    Importing all modules for every command line would add to the start-up time of each.

    Args:
        sections: Section titles of the help, each with its commands as `name: "module:attribute"`.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, str]], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.sections = sections
        self._places = {name: place for part in sections.values() for name, place in part.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands, section by section."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None if there is none of that name."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, a section for each group of them."""
        width = max(map(len, self._places))
        limit = formatter.width - width - 6
        for title, places in self.sections.items():
            rows = []
            for name in places:
                command = self.get_command(ctx, name)
                if command is not None and not command.hidden:
                    rows.append((f"{name:{width}}", command.get_short_help_str(limit)))
            with formatter.section(title):
                formatter.write_dl(rows)
