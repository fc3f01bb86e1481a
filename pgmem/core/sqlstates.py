"""Translate the server's errors into pgmem's errors.

Only this module knows SQLSTATEs and constraint names. A message names the action and what to do. It
never repeats the server's DETAIL, which may hold values.
"""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from pgmem.core.names import APPEND_ONLY_SQLSTATE, REFUSED_SQLSTATE
from pgmem.errors import (
    DatabaseFault,
    InvalidInput,
    InvalidValue,
    PermissionDenied,
    PgmemError,
    SchemaError,
    TransactionConflict,
    Unavailable,
)

_RACES = frozenset({"events_stream_version_key", "imports_target_key"})
"""Constraints that a statement violates only if another transaction committed first: retry it."""

_RETRY_WHOLE = (
    pg.SerializationFailure,
    pg.DeadlockDetected,
)

_UNSENT = (pg.CannotConnectNow, pg.TooManyConnections)

_DISCONNECTS = (
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.IdleSessionTimeout,
    pg.IdleInTransactionSessionTimeout,
)

_NAME_CONSTRAINTS = {
    "imports_source_length": "the name of the import",
    "imports_part_length": "the part of the import",
    "imports_target_length": "the target of the import",
}


_FAULTS: tuple[tuple[tuple[type[psycopg.Error], ...], type[PgmemError], str], ...] = (
    (
        _RETRY_WHOLE,
        TransactionConflict,
        "the server undid the transaction, because it could not be ordered with another one that "
        "ran beside it ({state}). Run the whole transaction again",
    ),
    (
        (pg.InFailedSqlTransaction,),
        TransactionConflict,
        "an earlier statement of this transaction failed, so the server refuses the rest of it. "
        "Roll back, and run the whole transaction again",
    ),
    (
        (pg.InvalidSqlStatementName,),
        TransactionConflict,
        "a function or pooler has deallocated the prepared statements of the connection. Run the "
        "whole transaction again, and without DEALLOCATE ALL",
    ),
    (
        (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn),
        SchemaError,
        "the database lacks a table or column of pgmem's. Run the migrations (`pgmem migrate up`) "
        "on this database and schema",
    ),
    (
        (pg.InsufficientPrivilege,),
        PermissionDenied,
        "the role may not ({reason}). `pgmem migrate grant` gives a role what it needs",
    ),
    (
        (pg.ReadOnlySqlTransaction,),
        Unavailable,
        "the server takes no writes: it is a standby, or the transaction is read-only. Nothing was "
        "changed. Try again if a failover is under way, else connect to the primary, and set "
        "default_transaction_read_only = off for the role",
    ),
    (
        (*_UNSENT, *_DISCONNECTS),
        Unavailable,
        "{reason}. Try again later",
    ),
    (
        (pg.QueryCanceled, pg.LockNotAvailable),
        Unavailable,
        "{reason} ({state}). Nothing was changed. Try again later, or raise the statement_timeout "
        "or lock_timeout of the role",
    ),
    (
        (pg.UntranslatableCharacter, pg.CharacterNotInRepertoire),
        InvalidValue,
        "a text holds a character that PostgreSQL cannot store: NUL, or one that the encoding of "
        "the database, or of the caller's connection (client_encoding), lacks. Use UTF8 for both",
    ),
    (
        (psycopg.DataError,),
        InvalidInput,
        "PostgreSQL cannot hold a value that was given ({state})",
    ),
)


def is_repeatable(error: Exception) -> bool:
    """Return True if the server undid the statement because of a concurrent one."""
    return isinstance(error, _RETRY_WHOLE)


def is_rolled_back(error: Exception) -> bool:
    """Return True if the server ended the session before it got the COMMIT."""
    return isinstance(error, pg.IdleInTransactionSessionTimeout)


def is_full_queue(error: Exception) -> bool:
    """Return True if a commit failed because the notification queue is full."""
    return isinstance(error, pg.ProgramLimitExceeded) and "NOTIFY" in str(error)


def is_version_race(error: Exception) -> bool:
    """Return True if another writer appended the version, or took the import's target, first."""
    return isinstance(error, pg.UniqueViolation) and error.diag.constraint_name in _RACES


def is_refused(error: psycopg.Error) -> bool:
    """Return True if a statement undid the transaction because a condition does not hold."""
    return error.sqlstate == REFUSED_SQLSTATE


def is_unprepared(error: psycopg.Error) -> bool:
    """Return True if the user of `tx.connection` has deallocated a prepared statement."""
    return isinstance(error, pg.InvalidSqlStatementName)


def is_disconnect(error: psycopg.Error) -> bool:
    """Return True if the server ended the connection."""
    return isinstance(error, _DISCONNECTS)


def translate(error: Exception, action: str) -> PgmemError:
    """Return the typed error for an error of the server or the connection.

    A connection that was lost during a write is the caller's to judge, because only the caller
    knows if the statement may be repeated.
    """
    if not isinstance(error, psycopg.Error):
        raise TypeError(f"{error!r} is no database error") from error
    constraint = error.diag.constraint_name
    if isinstance(error, pg.CheckViolation) and constraint in _NAME_CONSTRAINTS:
        return InvalidInput(
            f"{action}: the database refused {_NAME_CONSTRAINTS[constraint]}: 1 to 512 bytes are "
            f"allowed"
        )
    if error.sqlstate == APPEND_ONLY_SQLSTATE:
        return DatabaseFault(
            f"{action}: the log is append-only, events are neither changed nor removed",
            sqlstate=error.sqlstate,
        )
    reason = error.diag.message_primary or type(error).__name__
    for classes, typed, text in _FAULTS:
        if isinstance(error, classes):
            return typed(f"{action}: {text.format(reason=reason, state=error.sqlstate)}")
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return Unavailable(f"{action}: the connection failed. Try again later")
    return DatabaseFault(
        f"{action}: the server refused it: {reason} ({error.sqlstate})", sqlstate=error.sqlstate
    )
