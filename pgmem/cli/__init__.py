"""The `pgmem` command. One module per capability; `app` puts them together.

Commands use pgmem's public names only. They parse the command line, call the library and print
the result for people or, with `--json`, for programs. No other part of pgmem imports this package.
"""

from __future__ import annotations


def main() -> None:
    """Run the `pgmem` command and end the process.

    The command is imported here so that Ctrl-C during the import prints no traceback either.
    """
    try:
        from pgmem.cli import app

        app.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
