# Generated from pgmem/optimistic/events.py by tools/generate_sync.py. Do not edit.
"""`tx.events` of an optimistic transaction: remember versions of streams, keep appends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pgmem._sync.events.transaction_verbs import TransactionEvents, read_versions
from pgmem.events.codec import parse_events
from pgmem.events.models import Event, RecordedEvent

if TYPE_CHECKING:
    from pgmem._sync.optimistic.transaction import Optimistic


class OptimisticEvents:
    """The log in an optimistic transaction. Reached as `tx.events`.

    Only the version of a stream is compared at the end: what `version` and `read_stream` saw,
    and the `expected_version` of `append`.
    """

    def __init__(self, tx: Optimistic) -> None:
        self._tx = tx
        self._reads = TransactionEvents(tx._reads, tx._codec)
        self._writes = TransactionEvents(tx._recorder, tx._codec)

    def version(self, stream: str) -> int:
        """Return the version of a versioned stream, and remember it.

        Args:
            stream: the stream's name.

        Raises:
            StaleRead: it was read before in this transaction, and has changed since.
        """
        self._tx._check_open()
        version = self._reads.version(stream)
        self._tx._remember(("stream", stream), version)
        return version

    def read(self, stream: str | Sequence[str] | None = None, **options: Any) -> list[Any]:
        """Read the events that are visible. Nothing is remembered.

        Args:
            stream, options: as for `tx.events.read` in a transaction.
        """
        self._tx._check_open()
        return list(self._reads.read(stream, **options))

    def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        model: type[BaseModel] | None = None,
    ) -> list[RecordedEvent[Any]]:
        """Read the events of a versioned stream, and remember the stream's version.

        Args:
            stream, after_version, until_version, limit, reverse, model: as for
                `memory.events.read_stream`.

        Raises:
            StaleRead: as for `version`.
        """
        version = self.version(stream)
        until = version if until_version is None else min(version, until_version)
        if until <= after_version:
            return []
        rows = read_versions(
            self._tx._reads, stream, after_version, until, limit=limit, reverse=reverse
        )
        return parse_events(self._tx._codec, model)(rows)

    def append(
        self, stream: str, event: Event | Sequence[Event], *, expected_version: int | None = None
    ) -> None:
        """Append events at the end of the transaction.

        Args:
            stream: the stream's name.
            event: an event, or several.
            expected_version: commit only if this is the stream's version. For a second append to
                the stream count the events of the first.

        Raises:
            InvalidInput: a name, event or option is not allowed.
        """
        self._tx._check_open()
        self._writes.append(stream, event, expected_version=expected_version)
        if expected_version is not None:
            self._tx._versions.setdefault(("stream", stream), expected_version)
