"""A connection that executes short statements cheaply and detects that it is broken.

A connection that is not waited for any longer is given up: it is never used again. The server is
asked to cancel the statement, in the background. The caller waits for that no longer than `GRACE`
seconds, so that its next call comes after the statement unless the server is silent.
"""

from __future__ import annotations

import re
import select
from collections.abc import Awaitable, Callable, Generator, Sequence
from time import monotonic
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import InvalidSqlStatementName
from psycopg.generators import fetch_many, send
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.rows import TupleRow
from psycopg.sql import Composable

from pgmem.core.concurrency import GRACE, AsyncBackground, async_drive
from pgmem.core.libpq import Answer, Call, Session
from pgmem.core.op import Row
from pgmem.core.sockets import AsyncSocketReader

R = TypeVar("R")

CANCEL_TIMEOUT = 1.0
"""Seconds to wait until the server has taken a cancel request, and until the statement ends."""

INTERVAL = 0.1
"""Seconds, at most, by which a deadline or Ctrl-C is noticed late."""

_DEALLOCATES = re.compile(rb"\b(?:deallocate|discard)\b", re.IGNORECASE)

_NOT_READY = 0  # psycopg's Ready.NONE: nothing came for `INTERVAL`


class AnswerTimeoutError(psycopg.OperationalError):
    """The server did not answer within `answer_timeout`. The connection was given up."""


def run_within(generator: Generator[Any, Any, R], seconds: float) -> Generator[Any, Any, R]:
    """Run one of psycopg's generators for at most `seconds`."""
    deadline = monotonic() + seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted
            if ready == _NOT_READY and monotonic() > deadline:
                raise AnswerTimeoutError(f"no answer from the server within {seconds:g} s")
            wanted = generator.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


Check = Callable[["AsyncConnection"], Awaitable[float]]
"""Raise if the server does not answer. Return the seconds until the next call."""


class AsyncCursor(psycopg.AsyncCursor[Any]):
    """A cursor of `tx.connection`: it notices a caller's DEALLOCATE or DISCARD.

    pgmem's own statements may be gone then. Inside a transaction it would be too late to learn that
    from the server, because the error ends the transaction.
    """

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Self:
        """Execute a statement, as psycopg's cursor does."""
        try:
            return await super().execute(query, *args, **kwargs)
        finally:
            text = query.as_bytes(self) if isinstance(query, Composable) else query
            text = text.encode(errors="replace") if isinstance(text, str) else text
            if isinstance(text, bytes) and _DEALLOCATES.search(text):
                connection = self.connection
                assert isinstance(connection, AsyncConnection)  # noqa: S101  # it made the cursor
                connection.forget_prepared()


class AsyncConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection of pgmem's own.

    Attributes:
        unconfirmed: True if the last commit was not confirmed by its synchronous standby. If that
            wait is cancelled, the server reports success with a warning, and a failover may lose
            the commit.
        due: when the pool closes the connection, by the monotonic clock.
        used_at: when it was last given back, by the monotonic clock.
        answer_timeout: seconds in which the server must answer; None for no limit.
        grace: seconds, after `answer_timeout`, that the caller waits for the statement's end.
        given_up: True if it must not be used any more.
        deferred: statements that travel with the next one, in one round trip.
        generation: which opening of the pool it belongs to.
        found_idle: True if the last check found that the server has ended the statement.
        check_after: seconds after which a long statement is first checked.
        unread: wait up to some milliseconds for the socket; return an empty list if nothing came.
    """

    unconfirmed = False
    due = 0.0
    used_at = 0.0
    answer_timeout: float | None = None
    grace = GRACE
    given_up = False
    generation = 0
    found_idle = False
    check_after = 5.0
    unread: Callable[[float], list[tuple[int, int]]]

    def __init__(self, pgconn: PGconn, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self._reader = AsyncSocketReader(pgconn)
        self.deferred: list[Call] = []
        # Attributes of the object are found faster than those of its class.
        self.unconfirmed = self.given_up = False
        self.answer_timeout = None

    def __del__(self, *_: Any) -> None:
        """Leave the connections of a memory that was not closed to libpq, without a warning."""

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one of psycopg's generators, for at most `answer_timeout` seconds.

        psycopg's own `wait` answers a cancellation or Ctrl-C by waiting for the server, up to ten
        seconds. This one gives the connection up.
        """
        if not args:
            kwargs.setdefault("interval", INTERVAL)
        if self.deferred:
            # The user of `tx.connection` executes a statement in the transaction.
            try:
                await self.run_deferred()
            except BaseException:
                gen.close()
                raise
        return await self._drive(gen, *args, **kwargs)

    async def _drive(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        if self.given_up:
            gen.close()
            self._require_usable()
        self._reader.forget()
        if self.answer_timeout is not None:
            gen = run_within(gen, self.answer_timeout)
        try:
            return await async_drive(gen, self.pgconn.socket, *args, **kwargs)
        except AnswerTimeoutError:
            await self._end(self.grace)
            raise
        except Exception:
            raise
        except GeneratorExit:
            self.give_up()  # The coroutine was closed, and must not wait.
            raise
        except BaseException:
            await self._end(GRACE)
            raise

    async def _end(self, seconds: float) -> None:
        """Give the connection up if a statement is under way, and wait a moment for its end."""
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE and not self.given_up:
            self.given_up = True
            try:
                await self._background.run_for(seconds, self._cancel)
            except RuntimeError:  # The interpreter is at its end.
                self.finish()

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        # After a rollback psycopg deallocates all statements, not only its own.
        if name is None:
            self._session.forget_prepared()
        return super()._deallocate(name)

    def forget_prepared(self) -> None:
        """Prepare every statement again, psycopg's and pgmem's: the server's may be gone."""
        self._prepared.clear()
        self._session.forget_prepared()

    def prepare_for_use(self, background: AsyncBackground) -> None:
        """Make what every statement uses.

        Args:
            background: runs the cancel request of a statement that is given up.
        """
        self._background = background
        self.add_notice_handler(self._notice)
        self.cursor_factory = AsyncCursor
        self._session = Session(self, prepare=self.prepare_threshold is not None)
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        self.unread = poll.poll

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # The function that raised it, because the text depends on the server's language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True

    async def run(
        self,
        query: bytes,
        params: dict[str, Any],
        check: Check | None = None,
        *,
        repeated: bool = False,
    ) -> Sequence[Row]:
        """Execute one statement and return its rows.

        Args:
            query: the statement.
            params: its parameters.
            check: for a statement that may take longer than `answer_timeout`: called again and
                again while it is under way.
            repeated: it is executed again because it was not prepared any more.

        Raises:
            psycopg.Error: the server refused the statement, or the connection was lost.
            AnswerTimeoutError: no answer within `answer_timeout`, or `check` found the server
                silent.
        """
        if self.deferred:
            if check is None:
                return (await self.run_deferred((query, params)))[0]
            await self.run_deferred()
        try:
            if self.given_up:
                self._require_usable()
            self._session.send(query, params)
            if check is None:
                seconds = self.answer_timeout
                answer = await self._receive(None if seconds is None else monotonic() + seconds)
            else:
                self.found_idle = False
                answer = await self._receive(monotonic() + self.check_after, check)
            if isinstance(answer, psycopg.Error):
                raise answer
        except InvalidSqlStatementName:
            # Something deallocated them that `AsyncCursor` could not see, such as a function.
            if repeated or self.pgconn.transaction_status != TransactionStatus.IDLE:
                self._session.stop_preparing()  # It may do so again, and end each transaction.
                raise
            return await self.run(query, params, check, repeated=True)
        return answer[0]

    async def run_units(self, units: Sequence[Sequence[Call]]) -> list[Answer]:
        """Execute several units in one round trip, and return the answer of each.

        A unit is one implicit transaction, or part of the open one. If a statement of it fails, the
        rest of the unit is skipped, and the next units are executed.

        Raises:
            psycopg.OperationalError: the connection was lost before all had answered.
            AnswerTimeoutError: not all had answered within `answer_timeout`.
        """
        self._require_usable()
        self._session.send_units(units)
        seconds = self.answer_timeout
        deadline = None if seconds is None else monotonic() + seconds
        answers = [await self._receive(deadline)]
        while len(answers) < len(units):
            answer = self._session.collect()
            answers.append(await self._receive(deadline) if answer is None else answer)
        return answers

    async def run_deferred(self, *calls: Call) -> list[Sequence[Row]]:
        """Execute the deferred statements and then others, in one round trip.

        Returns:
            The rows of each of `calls`.

        Raises:
            psycopg.Error: as for `run`.
        """
        deferred, self.deferred = self.deferred, []
        (answer,) = await self.run_units([[*deferred, *calls]])
        if isinstance(answer, psycopg.Error):
            raise answer
        return answer[len(deferred) :]

    def start(self, query: bytes, params: dict[str, Any]) -> None:
        """Send one statement without waiting. Then call `take` whenever the socket is readable.

        Raises:
            psycopg.Error: the connection is lost, or a parameter cannot be sent.
        """
        self._require_usable()
        self._session.send(query, params)
        self.pgconn.flush()

    async def receive(self) -> Sequence[Row]:
        """Wait for the rows of what `start` sent.

        Raises:
            psycopg.Error: as for `run`. It is not executed again if it was not prepared any more.
        """
        seconds = self.answer_timeout
        answer = await self._receive(None if seconds is None else monotonic() + seconds)
        if isinstance(answer, psycopg.Error):
            raise answer
        return answer[0]

    def take(self) -> Sequence[Row] | None:
        """Read what has arrived, and return the rows of what `start` sent once they are complete.

        Raises:
            psycopg.Error: the server refused the statement, or the connection was lost.
        """
        self.pgconn.flush()
        try:
            self.pgconn.consume_input()
        except psycopg.OperationalError:
            raise self._session.lost() from None
        answer = self._session.collect()
        if isinstance(answer, psycopg.Error):
            raise answer
        return None if answer is None else answer[0]

    def _require_usable(self) -> None:
        if self.given_up:
            raise psycopg.OperationalError("the connection was given up")

    async def _receive(self, deadline: float | None, check: Check | None = None) -> Answer:
        """Send what libpq still holds, and wait for the oldest answer, which has not come yet.

        At the deadline `check` decides about the next one.
        """
        answer: Answer | None = None
        try:
            if self.pgconn.flush():
                # More than the socket takes at once: read meanwhile, as the server may answer.
                await self._drive(send(self.pgconn), interval=INTERVAL)
                answer = self._session.collect()
            while answer is None:
                try:
                    came = await self._reader.wait(deadline)
                except psycopg.OperationalError:
                    # The server may have said why before it closed the connection.
                    raise self._session.lost() from None
                if came:
                    answer = self._session.collect()
                elif check is not None:
                    deadline = monotonic() + await check(self)
                else:
                    raise AnswerTimeoutError(  # noqa: TRY301
                        f"no answer from the server within {self.answer_timeout:g} s"
                    )
        except AnswerTimeoutError:
            await self._end(self.grace)
            raise
        except Exception:
            raise
        except GeneratorExit:
            self.give_up()  # The coroutine was closed, and must not wait.
            raise
        except BaseException:
            await self._end(GRACE)
            raise
        return answer

    def lend_socket(self) -> int:
        """Return the socket for another waiter, which then replaces this one in the event loop."""
        self._reader.forget()
        return self.pgconn.socket

    def give_up(self) -> None:
        """Never use the connection again. It waits for nothing, so it works after a cancellation.

        The server is asked to cancel a statement that is under way. Without that the statement
        would go on, and hold its locks.
        """
        if self.given_up:
            return
        self.given_up = True
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            self.finish()
            return
        try:
            self._background.run(self._cancel)
        except RuntimeError:  # The event loop, or the interpreter, is at its end.
            self.finish()

    async def _cancel(self) -> None:
        try:
            await self.cancel_safe(timeout=CANCEL_TIMEOUT)
            rest = run_within(fetch_many(self.pgconn), CANCEL_TIMEOUT)
            await async_drive(rest, self.pgconn.socket, interval=INTERVAL)
        except (psycopg.Error, OSError):
            pass  # The server is gone, or silent. It ends the statement with the connection.
        finally:
            self.finish()

    async def close(self) -> None:
        """Close the connection."""
        self._reader.forget()
        await super().close()

    def finish(self) -> None:
        """Close the connection. It waits for nothing."""
        self._reader.forget()
        self.pgconn.finish()

    def is_stale(self) -> bool:
        """Return True if the server has closed the idle connection, without a round trip.

        An idle connection has nothing to read, except a notice or the end of the connection. Before
        a statement is sent, another connection can take it safely.
        """
        try:
            for _ in range(10):
                if not self.unread(0):
                    return False
                self.pgconn.consume_input()
        except (psycopg.Error, OSError):
            return True
        return self.pgconn.status != ConnStatus.OK
