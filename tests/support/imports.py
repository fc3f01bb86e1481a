"""Let the workers of a run share the compiled test modules.

Each worker imports every test module, and pytest compiles their assertions itself, which takes half
of that time. Here the modules that one worker has compiled are read by the others.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Compiled:
    """The folder with the compiled modules of a run.

    If the environment forbids them beside their sources, they are in a temporary folder.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory | None = None

    def start(self) -> None:
        """Let the workers, and the processes that tests start, write and read compiled modules."""
        if sys.dont_write_bytecode and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
            self._folder = tempfile.TemporaryDirectory(prefix="pgmem-tests-")
            os.environ["PYTHONPYCACHEPREFIX"] = self._folder.name

    def stop(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()


def import_from(part: int, parts: int, folders: list[str]) -> None:
    """Import all test modules, beginning with one part of them.

    Args:
        part: the number of the part, from 0. Each worker begins with another one.
        parts: the number of parts.
        folders: where to look.
    """
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("test_*.py"))
    begin = part * len(files) // parts
    for file in files[begin:] + files[:begin]:
        with suppress(Exception, pytest.skip.Exception):  # Its collection reports it.
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
