"""Write removed events to files, and put them back.

::

    lines ──► .name.tmp ──► flushed to disk ──► name.jsonl.gz ──► (the events are removed)
                                                     │ the transaction failed: the file is deleted
                                                     ▼
                                   restore ──► checked as a whole ──► one transaction

A file has its name only if it is complete and on disk, or if it is empty: the name is taken first,
so that no file is overwritten. A process that dies may leave an empty file or one in `.tmp`, whose
events are in the log, or a complete one, whose events may be in the log.

`pgmem.retention.archive_ops` defines the contents of a file.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pgmem.core.concurrency import async_sleep, run_in_thread
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.errors import ArchiveFailed, DatabaseFault, InvalidInput, PgmemError, Unavailable
from pgmem.retention import archive_ops as ops
from pgmem.retention.models import RestoreReport

StrPath = str | os.PathLike[str]

LOCK_TRIES, LOCK_PAUSE = 5, 0.5
"""How often a restore tries to keep writers out, and the seconds between two tries."""


class AsyncArchiver:
    """Write removed events to files in a folder.

    Args:
        executor: reads the events.
        schema: the schema of the events.
        folder: an existing folder.

    Raises:
        InvalidInput: the folder does not exist.
    """

    def __init__(self, executor: AsyncPoolExecutor, schema: str, folder: StrPath) -> None:
        named = isinstance(folder, str | os.PathLike) and os.fspath(folder) != ""
        if not named or not Path(folder).is_dir():
            raise InvalidInput(
                f"export= names an existing folder to write files to, got {str(folder)[:200]!r}"
            )
        self._executor = executor
        self._schema = schema
        self._folder = Path(folder)

    async def write(self, stream: str, positions: list[int]) -> tuple[ops.Archive, Path] | None:
        """Write events to a file. Return None if some of them are gone.

        Raises:
            ArchiveFailed: the file could not be written.
        """
        origin = await self._executor.execute(ops.read_origin(stream))
        found = await self._executor.execute(ops.read_lines(positions))
        if [position for position, _ in found] != positions:
            return None
        archive = ops.Archive(
            self._schema, origin, stream, positions[0], positions[-1], [line for _, line in found]
        )
        return archive, await run_in_thread(_write, self._folder, archive)

    async def discard(self, path: Path) -> None:
        """Delete a file whose events were not removed."""
        await run_in_thread(_discard, path)


def _write(folder: Path, archive: ops.Archive) -> Path:
    temporary = folder / f".{archive.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        data = ops.pack(archive)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path = _take_name(folder, archive.name)
        temporary.replace(path)
        _sync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArchiveFailed(
            f"export of {len(archive.lines)} events to {folder}: {error.strerror or error}. They "
            f"were not removed"
        ) from error
    return path


def _take_name(folder: Path, name: str) -> Path:
    """Create an empty file with a new name. An existing file is never overwritten."""
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
    """Flush the folder. A new name is on disk only after its folder is."""
    if hasattr(os, "O_DIRECTORY"):  # Other systems cannot open a folder.
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


async def restore(executor: AsyncPoolExecutor, file: StrPath) -> RestoreReport:
    """Put the events of a file back, all or none.

    Raises:
        ArchiveFailed, InvalidInput: the file cannot be read, or is no archive.
        Conflict: other events have these positions, or the log is another one and not empty.
        PermissionDenied: the role lacks the right.
    """
    if not isinstance(file, str | os.PathLike):
        raise InvalidInput(f"restore takes the path of a file, got {type(file).__name__}")
    path = Path(file)
    archive = await run_in_thread(_read, path)
    for last in (*[False] * (LOCK_TRIES - 1), True):
        try:
            return await _restore(executor, archive, path)
        except _WritersBusyError:
            if last:
                sessions = await executor.execute(ops.read_blockers())
                raise Unavailable(
                    f"restore of {path}: writers could not be kept out for a moment. Nothing was "
                    f"changed. Sessions with locks on the events: {sessions}. End their "
                    f"transactions (pg_terminate_backend), then restore again"
                ) from None
        await async_sleep(LOCK_PAUSE)
    raise AssertionError  # the last try returned or raised


class _WritersBusyError(PgmemError):
    """The lock that keeps writers out was not free in time."""


async def _lock_writers(tx: AsyncTransactionExecutor) -> None:
    await tx.execute(ops.limit_lock_wait())
    try:
        await tx.execute(ops.lock_writers())
    except Unavailable as error:
        raise _WritersBusyError from error


async def _restore(executor: AsyncPoolExecutor, archive: ops.Archive, path: Path) -> RestoreReport:
    async with executor.transaction("restore events", read_committed=True) as tx:
        target = await tx.execute(ops.read_target())
        if target.log != archive.origin.log or target.head < archive.last:
            # These positions were never drawn here. Writers must not draw them meanwhile.
            await _lock_writers(tx)
            target = await tx.execute(ops.read_target())
            if target.log != archive.origin.log:
                if not target.empty:
                    raise ops.foreign_error(str(path))
                await tx.execute(ops.adopt(archive))
            await tx.execute(ops.raise_head(archive))
        try:
            restored, complete = await tx.execute(ops.restore(archive, str(path)))
        except (InvalidInput, DatabaseFault) as error:
            raise ops.refused_error(str(path), error) from error
    return RestoreReport(archive.stream or None, restored, len(archive.lines) - restored, complete)
