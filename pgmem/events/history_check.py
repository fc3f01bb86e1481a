"""Check after a promotion or a crash that the log holds what the readers of this process have seen.

One check serves all readers of a memory. It can be repeated, and two at once do no harm.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from pgmem.core.database import AsyncDatabase, log
from pgmem.core.history import (
    Comparison,
    History,
    combine,
    holds_all,
    read_epochs,
    rewritten_error,
)
from pgmem.core.op import Op
from pgmem.errors import HistoryRewritten, Unavailable
from pgmem.events.buffer import AsyncEventBuffer
from pgmem.events.page import read_given, read_recorded
from pgmem.events.seen import SeenEvents

T = TypeVar("T")


class AsyncExecute(Protocol):
    """Executes an op: on the pool, or on the listening connection."""

    async def __call__(self, op: Op[T], /) -> T:
        """Execute it and return its result."""
        ...


class AsyncHistoryCheck:
    """Decides whether the readers of this process can go on.

    Args:
        database: knows the history that the readers have followed.
        buffer: knows the readers that are to be told.

    Attributes:
        seen: what the readers have seen.
    """

    def __init__(self, database: AsyncDatabase, buffer: AsyncEventBuffer) -> None:
        self._database = database
        self._buffer = buffer
        self.seen = SeenEvents()

    async def follow(self, execute: AsyncExecute, found: History, *, rewound: bool = False) -> None:
        """Go on in the history that was found, if it holds all that the readers have seen.

        Args:
            execute: executes an op on the server that has this history.
            found: the history.
            rewound: the caller follows the log, and has gone back to its last event.

        Raises:
            HistoryRewritten: it does not. The readers of this memory have ended.
            Unavailable: the server is on an older timeline than the one that was followed.
        """
        database, seen = self._database, self.seen
        known = database.history
        if found.system_identifier != known.system_identifier:
            raise self._lose(rewritten_error(known, found, seen.last))
        if found.timeline is None or found == known:
            return
        if known.timeline is None:
            database.go_on(known, found)  # The standby that was read has been promoted.
            return
        if found.timeline < known.timeline:
            raise Unavailable(
                f"read the log of {database.where}: the server is on timeline {found.timeline}, "
                f"and this memory has followed timeline {known.timeline}. It is an old primary, "
                f"or a restored backup. Check where the URL leads; to read it, open a new Memory"
            )
        epochs = await execute(read_epochs(known))
        how = "the new timeline forked off after all that was read"
        if not (seen.complete and holds_all(seen.lsn, epochs, known, found)):
            compared = await self._compare(execute)
            if not compared.same:
                raise self._lose(rewritten_error(known, found, seen.last, compared))
            how = "the log holds the last events that were read"
        # Void positions above the last event may be drawn again. Go back before the new history is
        # known, so that whatever is taken for stable in it is.
        self._buffer.forget_stable()
        if not rewound:
            self._buffer.rewind(certain=False)
        if not database.go_on(known, found):
            return
        log.info(
            "%s was promoted: it is on timeline %d, after %d. Readers go on, because %s",
            database.where,
            found.timeline,
            known.timeline,
            how,
        )

    async def verify(self, execute: AsyncExecute) -> None:
        """Check that the log still holds what was followed.

        A crash of the server may have undone the latest commits.

        Raises:
            HistoryRewritten: it does not. The readers of this memory have ended.
        """
        followed = self.seen.followed()
        if not followed:
            return
        compared = await execute(read_recorded(followed))
        if not compared.same:
            history = self._database.history
            raise self._lose(rewritten_error(history, history, followed[-1][0], compared))

    async def _compare(self, execute: AsyncExecute) -> Comparison:
        """Compare what the readers have seen with the log."""
        followed, read = self.seen.followed(), self.seen.read()
        results = []
        if followed:
            results.append(await execute(read_recorded(followed)))
        if read:
            results.append(await execute(read_given(read)))
        return combine(results)

    def _lose(self, error: HistoryRewritten) -> HistoryRewritten:
        """Tell all readers that the log is another one, and forget what was seen of it."""
        # Before the new history is known: a read that finds it known then finds its reader ended.
        self._buffer.leave_off()
        self._buffer.fail(error)
        self.seen.forget()
        self._database.lose(error)
        return error
