# Generated from pgmem/retention/archive.py by tools/generate_sync.py. Do not edit.
"""Writes removed events to files, and puts them back.

::

    lines ──► .name.tmp ──► flushed to the disk ──► name.jsonl.gz ──► (the events are removed)
                                                         │ not all of them could be: removed again
                                                         ▼
                                     restore ──► checked as a whole ──► one transaction

A file is there under its name only if it is complete and on the disk; or if it is empty: the name
is taken first, so that nothing is written over. A process that dies may leave such a file or one in
`.tmp`, whose events are still there; or a complete one, whose events may be.

What a file says is `pgmem.retention.archive_ops`'s matter; which events are removed,
`pgmem._sync.retention.trim`'s.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pgmem._sync.core.execution import PoolExecutor
from pgmem.core.concurrency import run_inline
from pgmem.errors import ArchiveFailed, DatabaseFault, InvalidInput
from pgmem.retention import archive_ops as ops
from pgmem.retention.models import RestoreReport

StrPath = str | os.PathLike[str]


class Archiver:
    """A folder that removed events are written to.

    Args:
        runner: what it reads with.
        schema: the schema that the events are in.
        folder: an existing folder.

    Raises:
        InvalidInput: there is no such folder.
    """

    def __init__(self, executor: PoolExecutor, schema: str, folder: StrPath) -> None:
        named = isinstance(folder, str | os.PathLike) and os.fspath(folder) != ""
        if not named or not Path(folder).is_dir():
            raise InvalidInput(
                f"export= names an existing folder to write files to, got {str(folder)[:200]!r}"
            )
        self._executor = executor
        self._schema = schema
        self._folder = Path(folder)

    def write(self, stream: str, positions: list[int]) -> tuple[ops.Archive, Path] | None:
        """Write events to a file; None if not all of them are there any more.

        Raises:
            ArchiveFailed: the file could not be written.
        """
        place = self._executor.execute(ops.read_place(stream))
        found = self._executor.execute(ops.read_lines(positions))
        if [position for position, _ in found] != positions:
            return None
        archive = ops.Archive(
            self._schema, place, stream, positions[0], positions[-1], [line for _, line in found]
        )
        return archive, run_inline(_write, self._folder, archive)

    def discard(self, path: Path) -> None:
        """Remove a file whose events were not removed."""
        run_inline(_discard, path)


def _write(folder: Path, archive: ops.Archive) -> Path:
    temporary = folder / f".{archive.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        data = ops.pack(archive)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path = _reserve(folder, archive.name)
        temporary.replace(path)
        _sync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArchiveFailed(
            f"export of {len(archive.lines)} events to {folder}: {error.strerror or error}. They "
            f"were not removed"
        ) from error
    return path


def _reserve(folder: Path, name: str) -> Path:
    """A name in the folder that nobody else has: a file that is there is never written over."""
    number = 1
    while True:
        path = folder / f"{name}{'' if number == 1 else f'.{number}'}{ops.SUFFIX}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            number += 1
        else:
            return path


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only when its folder is."""
    if hasattr(os, "O_DIRECTORY"):  # Elsewhere a folder cannot be opened.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)


def _read(path: Path) -> ops.Archive:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveFailed(f"restore of {path}: {error.strerror or error}") from error
    return ops.unpack(data, str(path))


def restore(executor: PoolExecutor, file: StrPath) -> RestoreReport:
    """Put the events of a file back, all or none.

    Raises:
        ArchiveFailed, InvalidInput: the file cannot be read, or is none.
        Conflict: the log holds other events.
        PermissionDenied: the role may not.
    """
    if not isinstance(file, str | os.PathLike):
        raise InvalidInput(f"restore takes the path of a file, got {type(file).__name__}")
    path = Path(file)
    archive = run_inline(_read, path)
    with executor.transaction("restore events", read_committed=True) as tx:
        target = tx.execute(ops.read_target())
        if target.log != archive.place.log or target.head < archive.last:
            # Positions that were never drawn here: nobody may draw them meanwhile.
            tx.execute(ops.keep_out())
            target = tx.execute(ops.read_target())
            if target.log != archive.place.log:
                if not target.empty:
                    raise ops.foreign_error(str(path))
                tx.execute(ops.adopt(archive))
            tx.execute(ops.raise_head(archive))
        try:
            number, lowered = tx.execute(ops.restore(archive, str(path)))
        except (InvalidInput, DatabaseFault) as error:
            raise ops.refused_error(str(path), error) from error
    return RestoreReport(archive.stream or None, number, len(archive.lines) - number, lowered)
