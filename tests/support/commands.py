"""Run the `pgmem` command in this process or as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from pgmem.cli.app import main


def run(capfd, arguments, stdin=None):
    """Run a command in this process; return exit code, stdout and stderr."""
    before = sys.stdin
    if stdin is not None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    finally:
        sys.stdin = before
    out, err = capfd.readouterr()
    return ended.value.code or 0, out, err


@contextmanager
def started(url, *arguments, **environment):
    """Start a command as a process with its output in pipes; kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from pgmem.cli.app import main; main()", *arguments],
        env={**os.environ, "PGMEM_DATABASE_URL": url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
