"""`pgmem completion`: print the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class, shell_complete

from pgmem.cli.commands import Command

VARIABLE = "_PGMEM_COMPLETE"


@click.command(
    cls=Command,
    examples="""
    # bash, for new shells
    echo 'eval "$(pgmem completion bash)"' >> ~/.bashrc

    # zsh, for new shells
    echo 'eval "$(pgmem completion zsh)"' >> ~/.zshrc

    # fish, for new shells
    pgmem completion fish > ~/.config/fish/completions/pgmem.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    from pgmem.cli.app import app

    script = get_completion_class(shell)
    if script is None:
        raise click.BadParameter(f"no completion for {shell!r}")
    click.echo(script(app, {}, "pgmem", VARIABLE).source())


def complete(instruction: str) -> int:
    """Answer a shell that asks for completions. Return the exit code.

    Args:
        instruction: What the shell asks for, from the variable `_PGMEM_COMPLETE`.
    """
    from pgmem.cli.app import app

    return shell_complete(app, {}, "pgmem", VARIABLE, instruction)
