"""The errors that pgmem raises, one tree.

::

    PgmemError
    ├── InvalidInput (also a ValueError)   refused before anything was sent
    │   ├── InvalidName                    a stream, key, type, agent or schema name
    │   ├── InvalidValue                   what JSON or PostgreSQL cannot hold exactly
    │   │   └── ValueTooLarge
    │   ├── InvalidOption                  expected_version, ttl, limit, url …
    │   ├── ForeignId                      an id of another log, as of a Redis stream
    │   └── InvalidArchive                 a file of removed events that is damaged, or is none
    ├── Conflict                           the database is not what the caller assumed
    │   ├── VersionConflict                expected, actual, current
    │   │   └── ConcurrentModificationError   the same, by the name of the published layer
    │   ├── IdempotencyMismatch            the key was used before, for something else
    │   ├── ClaimHeld                      another holder's lease is still running
    │   ├── LeaseLost                      our lease ran out, or somebody newer took over
    │   ├── LeaseHeld                      somebody else holds the named lease
    │   ├── ConsumerMismatch               the consumer was made to follow something else
    │   ├── ImportConflict                 another import is at it, or has been
    │   ├── GroupMismatch                  the group was made with another selection
    │   ├── ArchiveConflict                the log holds other events than the file
    │   └── TransactionConflict            serialization failure, deadlock: run it all again
    ├── CallbackFailed                     a function given to update() or run_once() raised
    ├── SnapshotNotFound
    ├── ConsumerNotFound
    ├── SourceError                        what is imported from refused, or is not as it was
    │   └── SourceUnavailable              it does not answer
    ├── GroupNotFound
    ├── HistoryRewritten                   positions belong to another history of the log
    ├── PositionTrimmed                    retention has removed what the reader has not read
    ├── ArchiveFailed                      a file could not be written or read
    ├── OutcomeUnknown                     the connection broke while a write was under way
    ├── Unavailable                        no server, no free connection, in the time allowed
    ├── NotOpen                            used before open(), after close(), or in a forked child
    ├── SchemaError
    │   ├── SchemaMissing                  the database has no pgmem tables: migrate
    │   ├── SchemaTooOld                   migrate the database
    │   └── SchemaTooNew                   upgrade the library
    ├── AppendOnlyViolation                something tried to change or remove an event
    ├── PermissionDenied                   the role lacks a privilege
    ├── DatabaseFault                      anything else that the server refused, with its SQLSTATE
    └── EmbeddedPostgresError              the private server could not be found, started or stopped

Every message says what was tried, what was found, and what to do. No message
holds a password, a payload or a value. This module imports nothing of pgmem.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any


class PgmemError(Exception):
    """Base of every error that pgmem raises on purpose."""


class InvalidInput(PgmemError, ValueError):
    """The caller's input was refused before anything was sent to the database."""


class InvalidName(InvalidInput):
    """A stream, key, type, agent or schema name that cannot be used."""


class InvalidValue(InvalidInput):
    """A payload, value, metadata or result that would not come back exactly as it was given."""


class ValueTooLarge(InvalidValue):
    """A payload or value over the configured limit.

    Attributes:
        size: bytes of the JSON text that was given.
        limit: bytes that are allowed.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class InvalidOption(InvalidInput):
    """An option outside what is allowed, or options that exclude each other."""


class ForeignId(InvalidInput):
    """An id that belongs to another log, as one of a Redis stream: it says nothing here."""


class InvalidArchive(InvalidInput):
    """A file of removed events is damaged, was changed, or is none. Nothing was restored."""


class Conflict(PgmemError):
    """The database holds something else than the caller assumed. Nothing was changed."""


class VersionConflict(Conflict):
    """The version is not the expected one. Nothing was changed.

    Attributes:
        expected: the version that the writer believed to be current; 0 means "does not exist".
        actual: the version found; 0 if there is none.
        current: the `StateEntry` found, so that a retry needs no second read; None for
            streams, and where no live entry exists.
    """

    def __init__(
        self, message: str, *, expected: int, actual: int, current: Any | None = None
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.current = current


class ConcurrentModificationError(VersionConflict):
    """All tries of a `SharedMemoryLayer.update_with_version` lost. Nothing was changed."""


class IdempotencyMismatch(Conflict):
    """An idempotency key was used before with other content. Nothing was changed."""


class ClaimHeld(Conflict):
    """Another holder has the claim, and its lease is still running.

    Attributes:
        lease_until: when that lease ends, by the server's clock.
    """

    def __init__(self, message: str, *, lease_until: datetime | None = None) -> None:
        super().__init__(message)
        self.lease_until = lease_until


class LeaseLost(Conflict):
    """The lease ran out and somebody with a newer fencing token took over, or finished the work.

    A named lease is lost by the server's clock, also if nobody has taken it yet.
    """


class LeaseHeld(Conflict):
    """Somebody else holds the named lease, and held it for as long as was waited.

    Attributes:
        expires_at: when that lease ends if it is not renewed, by the server's clock.
    """

    def __init__(self, message: str, *, expires_at: datetime | None = None) -> None:
        super().__init__(message)
        self.expires_at = expires_at


class ConsumerMismatch(Conflict):
    """The consumer exists, with another selection of events. Nothing was changed."""


class ImportConflict(Conflict):
    """An import cannot go on: another process does, or the target belongs to another import."""


class GroupMismatch(Conflict):
    """The consumer group exists, with another selection, order or limit. Nothing was changed."""


class ArchiveConflict(Conflict):
    """The log holds other events than the file that is to be restored. Nothing was changed."""


class TransactionConflict(Conflict):
    """The server aborted the transaction to keep others consistent: run the whole of it again."""


class CallbackFailed(PgmemError):
    """A function given to pgmem raised. Nothing was written; `__cause__` is its exception."""


class SnapshotNotFound(PgmemError):
    """The snapshot that was asked for does not exist."""


class ConsumerNotFound(PgmemError):
    """The consumer that was asked for does not exist."""


class SourceError(PgmemError):
    """What is imported from refused a command, or is not what it was when the import began."""


class SourceUnavailable(SourceError):
    """What is imported from could not be reached, or went away and did not come back in time."""


class GroupNotFound(PgmemError):
    """The consumer group that was asked for does not exist."""


class HistoryRewritten(PgmemError):
    """A position belongs to another history of the log: a failover, or a restored backup.

    Attributes:
        position: the position that the reader had reached, if it had one.
        expected: the `History` that it belongs to.
        found: the `History` that the log has now.
    """

    def __init__(self, message: str, *, position: int | None, expected: Any, found: Any) -> None:
        super().__init__(message)
        self.position = position
        self.expected = expected
        self.found = found


class PositionTrimmed(PgmemError):
    """Retention has removed events that the reader has not read.

    Attributes:
        position: the reader's position: what came after it is asked for.
        trimmed_to: events up to this position were removed.
    """

    def __init__(self, message: str, *, position: int, trimmed_to: int) -> None:
        super().__init__(message)
        self.position = position
        self.trimmed_to = trimmed_to


class ArchiveFailed(PgmemError):
    """A file of removed events could not be written or read. Nothing was removed or restored."""


class OutcomeUnknown(PgmemError):
    """The connection was lost while a write was under way: it may or may not have happened.

    pgmem retries by itself only where an idempotency key or an expected version makes a second
    try harmless. Give one, or read back before writing again.
    """


class Unavailable(PgmemError):
    """The server could not be reached, or no connection was free, in the time allowed."""


class NotOpen(PgmemError):
    """The memory was used before `open()`, after `close()`, or in a forked child."""


class SchemaError(PgmemError):
    """The database's pgmem schema and this library do not fit."""


class SchemaMissing(SchemaError):
    """The database has no pgmem tables in the schema that was asked for."""


class SchemaTooOld(SchemaError):
    """The database's schema is older than this library needs: run the migrations."""


class SchemaTooNew(SchemaError):
    """The database's schema is newer than this library knows: upgrade the library."""


class AppendOnlyViolation(PgmemError):
    """Something tried to change or remove an event. The log is append-only."""


class PermissionDenied(PgmemError):
    """The database role lacks a privilege that the call needs."""


class DatabaseFault(PgmemError):
    """The server refused a statement for a reason that has no class of its own.

    Attributes:
        sqlstate: the server's five-character code, or None.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class EmbeddedPostgresError(PgmemError):
    """The private PostgreSQL server could not be found, started or stopped."""
