"""The errors that pgmem raises.

::

    PgmemError
    ├── InvalidInput (also a ValueError)   an argument was refused before anything was sent
    │   └── InvalidValue                   a value that JSON or PostgreSQL cannot hold exactly
    │       ├── ValueTooLarge
    │       └── InvalidEvent               a stored event does not fit its class or `model=`
    ├── Conflict                           the database does not hold what the caller assumed
    │   ├── VersionConflict                another writer came first
    │   │   └── StaleRead                  what an optimistic transaction read has changed
    │   ├── IdempotencyMismatch            the key was used before, with other content
    │   ├── AlreadyExists                  a group or subscription has this name
    │   ├── LeaseHeld                      another holder has the lease or the claim
    │   ├── LeaseLost                      the lease ran out, or a newer holder took over
    │   └── TransactionConflict            the server undid the transaction: run it again
    ├── NotFound                           there is no group, subscription or snapshot of this name
    ├── CallbackFailed                     a function given to update() or run_once() raised
    ├── PositionTrimmed                    retention has removed events that were not read
    ├── HistoryRewritten                   a position belongs to another history of the log
    ├── ArchiveFailed                      an archive file could not be written or read
    ├── OutcomeUnknown                     the connection was lost while a write was under way
    ├── Unavailable                        no server or no free connection in time
    ├── NotOpen                            before open(), after close(), in a fork or other loop
    ├── SchemaError                        the schema is missing, too old or too new
    ├── PermissionDenied                   the role lacks a privilege
    └── DatabaseFault                      any other error of the server, with its SQLSTATE

A message says what was given or found, what is allowed, and what to do. No message holds a
password, a payload or a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any


class PgmemError(Exception):
    """Base of every error that pgmem raises."""


class InvalidInput(PgmemError, ValueError):
    """An argument is not allowed: a name, an option, a position, a file. Nothing was sent."""


class InvalidValue(InvalidInput):
    """A payload, value, metadata or result would not come back exactly as it was given.

    Also a stored value that does not fit `model=`. If it is the result of `memory.dedupe.run_once`,
    the work is done, and the message says so.
    """


class ValueTooLarge(InvalidValue):
    """A payload or value is over the configured limit.

    Attributes:
        size: bytes of the JSON text that was given.
        limit: bytes that are allowed.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class InvalidEvent(InvalidValue):
    """A stored event does not fit its class or `model=`. It says nothing about other events.

    Attributes:
        event: the `RecordedEvent` with its payload as it is stored.
        stream: its stream.
        position: its position.
        type: its type.
        field: the first field that does not fit, with dots; None for the whole payload.
    """

    def __init__(self, message: str, *, event: Any, field: str | None) -> None:
        super().__init__(message)
        self.event = event
        self.stream: str = event.stream
        self.position: int = event.position
        self.type: str = event.type
        self.field = field


class Conflict(PgmemError):
    """The database does not hold what the caller assumed. Nothing was changed."""


class VersionConflict(Conflict):
    """The version is not the expected one. Nothing was changed.

    Attributes:
        expected: the version that the writer expected; 0 means "does not exist".
        actual: the version found; 0 if there is none.
        current: the `StateEntry` found, so that a retry needs no read. None for a stream, and if
            there is no live entry.
    """

    def __init__(
        self, message: str, *, expected: int, actual: int, current: Any | None = None
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.current = current


class StaleRead(VersionConflict):
    """An optimistic transaction read something that has changed since. Nothing was written.

    `expected`, `actual` and `current` are those of the first of `reads`.

    Attributes:
        reads: what has changed: for each entry or stream its `kind`, `name`, `expected` and
            `actual` version, the `current` entry, and the `events` since.
    """

    def __init__(
        self, message: str, *, expected: int, actual: int, current: Any | None, reads: Sequence[Any]
    ) -> None:
        super().__init__(message, expected=expected, actual=actual, current=current)
        self.reads = reads


class IdempotencyMismatch(Conflict):
    """The idempotency key was used before with other content. Nothing was changed."""


class AlreadyExists(Conflict):
    """A group or durable subscription has this name, with another definition. Nothing changed."""


class LeaseHeld(Conflict):
    """Another holder has the lease or the claim. It did not end within `timeout`.

    Attributes:
        expires_at: when it ends if it is not renewed, by the server's clock.
    """

    def __init__(self, message: str, *, expires_at: datetime | None = None) -> None:
        super().__init__(message)
        self.expires_at = expires_at


class LeaseLost(Conflict):
    """The lease ran out, or a holder with a newer fencing token took over or finished the work.

    A named lease is lost when it runs out by the server's clock, even if no other holder has it.
    """


class TransactionConflict(Conflict):
    """The server undid the transaction because of a concurrent one. Run the whole of it again."""


class NotFound(PgmemError):
    """There is no consumer group, durable subscription or snapshot of this name."""


class CallbackFailed(PgmemError):
    """A function given to pgmem raised. Nothing was written. `__cause__` is its exception."""


class PositionTrimmed(PgmemError):
    """Retention has removed events that the reader has not read.

    Attributes:
        position: the reader's position. The events after it were asked for.
        trimmed_to: events up to this position were removed.
    """

    def __init__(self, message: str, *, position: int, trimmed_to: int) -> None:
        super().__init__(message)
        self.position = position
        self.trimmed_to = trimmed_to


class HistoryRewritten(PgmemError):
    """A position belongs to another history of the log: a failover that lost events, or a restore.

    Attributes:
        position: the position that the reader had reached, or None.
        expected: the `History` that it belongs to.
        found: the `History` that the log has now.
        agrees_up_to: what was read agrees with the log up to this position; None if that is not
            known.
        lost: positions of events that were read after it, and that the log does not hold. At most
            the newest 5,000 events and the newest 5,000 of `read` are compared.
    """

    def __init__(
        self,
        message: str,
        *,
        position: int | None,
        expected: Any,
        found: Any,
        agrees_up_to: int | None = None,
        lost: Sequence[int] = (),
    ) -> None:
        super().__init__(message)
        self.position = position
        self.expected = expected
        self.found = found
        self.agrees_up_to = agrees_up_to
        self.lost = lost


class ArchiveFailed(PgmemError):
    """An archive file could not be written or read. Nothing was removed or restored."""


class OutcomeUnknown(PgmemError):
    """The connection was lost while a write was under way: it may or may not have happened.

    pgmem repeats a write by itself only if an idempotency key or an expected version makes a second
    one harmless. Give one, or read back before writing again.
    """


class Unavailable(PgmemError):
    """The server could not be reached, or no connection was free, in the time allowed.

    Also if the server ended the statement (by statement_timeout, lock_timeout, or an
    administrator), or takes no writes because it is a standby. Then nothing was changed.
    """


class NotOpen(PgmemError):
    """The memory is not open here.

    It was used before `open()`, after `close()`, in a forked child or in another event loop.
    """


class SchemaError(PgmemError):
    """The database's schema and this library do not fit: it is missing, too old or too new.

    Attributes:
        found: the schema's revision, or None if there is none.
        needed: the revision that this library works with.
    """

    def __init__(
        self, message: str, *, found: str | None = None, needed: str | None = None
    ) -> None:
        super().__init__(message)
        self.found = found
        self.needed = needed


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
