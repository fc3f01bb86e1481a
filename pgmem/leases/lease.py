"""One time of holding a named lease: what `memory.leases.acquire` gives.

Knows by its own clock when the lease has certainly run out, and asks the server for all else; what
to run is `pgmem.leases.ops`, which draws the row's states. It renews nothing by itself: the keeper
does that for all leases of a memory.

::

        held ────────── release ─────────► released
         ▲ │             │
     renewed │ not ours  │ not ours any more
         └─┘ any more,   │
             or run out  │
             └───────────┴──────► lost: release, renew and the end of the block say so

    server's clock        granted ······································ expires_at
    ours             sent ─┴─ answered                        sure_until ─┴─ over_at
                                                    ours until here        not ours from here on
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from pgmem.core.concurrency import Lock, async_sleep
from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.errors import LeaseLost, NotOpen, PgmemError
from pgmem.leases import ops

RETRY = 1.0
"""Seconds, at most, until a renewal that failed is tried again."""

LOCKED_PAUSE = 0.02
"""Seconds until a renewal that found the row locked is tried again: who locks it is soon done."""

RELEASE_PAUSES = (0.0, 0.005, 0.05)
"""Seconds before each further try to give back what an open transaction still needs."""


class AsyncLease:
    """A named lease that is ours. Made by `memory.leases.acquire`; a context manager.

    Attributes:
        name: the lease's name.
        fencing_token: grows with every time of holding: whoever is given it can refuse older ones.
        expires_at: when it ends if it is not renewed, by the server's clock.
        due: when (by the monotonic clock) to renew it.
    """

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        grant: ops.Grant,
        *,
        sure_until: float,
        on_end: Callable[[AsyncLease], None],
    ) -> None:
        self._executor = executor
        self._on_end = on_end
        self._losing = Lock()
        self._lost: LeaseLost | None = None
        self._released = False
        self._warned = False
        self.held = grant.held
        self.name = grant.held.name
        self.fencing_token = grant.held.token
        self.interval = grant.held.ttl / 3
        self.granted(grant, sure_until=sure_until)

    def __repr__(self) -> str:
        state = "released" if self._released else "lost" if self._lost else "held"
        return f"<{type(self).__name__} {self.name!r} {state}, token {self.fencing_token}>"

    def granted(self, grant: ops.Grant, *, sure_until: float) -> None:
        """It is ours for another time.

        Args:
            grant: what the server said.
            sure_until: until when (by the monotonic clock) it certainly is.
        """
        now = time.monotonic()
        self.expires_at: datetime = grant.expires_at
        self.sure_until = sure_until
        self.over_at = now + grant.remaining
        # In good time also where the answer was long on its way.
        self.due = min(now + self.interval, max(now, sure_until - self.interval))
        self._warned = False

    @property
    def lost(self) -> LeaseLost | None:
        """Why the lease is not ours any more, or None as far as we know.

        Its own clock tells too, so a process that stood still learns it here without a question to
        the server. But only the server knows all: give `compare_and_set` the lease.
        """
        if self._lost is None and not self._released and time.monotonic() > self.over_at:
            self.lose(
                ops.lost("use", self.name, self.fencing_token, "it ran out, and was not renewed")
            )
        return self._lost

    def lose(self, error: LeaseLost) -> None:
        """It is not ours any more."""
        with self._losing:
            if self._lost is not None or self._released:
                return
            self._lost = error
        self._on_end(self)
        log.warning("the lease %r was lost: %s", self.name, error)

    def renewal_failed(self, why: str) -> None:
        """It could not be renewed; try again soon, as long as it may be ours."""
        now = time.monotonic()
        self.due = now + min(self.interval, RETRY)
        if now > self.sure_until and self.lost is None and not self._warned:
            self._warned = True
            log.warning("the lease %r could not be renewed in time: %s", self.name, why)

    async def renew(self) -> None:
        """Hold the lease for another `ttl` from now. The memory does it every third of that.

        Raises:
            LeaseLost: it is not ours any more.
            NotOpen: it was released.
            Unavailable: the server could not be reached.
        """
        self._refuse_released("renew")
        while True:
            if self._lost is not None:
                raise self._lost
            before = time.monotonic()
            answer = (await self._executor.execute(ops.renew([self.held])))[self.held.owner]
            if self.take(answer, before):
                return
            await async_sleep(LOCKED_PAUSE)

    def take(self, answer: ops.Grant | LeaseLost | None, before: float) -> bool:
        """Take in what the server said to a renewal; tells whether it is to be asked no more.

        Args:
            answer: as `ops.renew` gives it.
            before: when (by the monotonic clock) the server was asked.
        """
        if isinstance(answer, ops.Grant):
            self.granted(answer, sure_until=before + answer.remaining)
        elif answer is None:
            self.due = time.monotonic() + LOCKED_PAUSE
        else:
            self.lose(answer)
        return isinstance(answer, ops.Grant)

    def _refuse_released(self, verb: str) -> None:
        if self._released:
            raise NotOpen(f"{verb} of the lease {self.name!r}: it was released; acquire it again")

    async def release(self) -> None:
        """Give the lease back: the first who waits for it has it at once. Again is harmless.

        Where a transaction with a write that is fenced by the lease is still open, the next one
        gets it after that transaction's end.

        Raises:
            LeaseLost: it was not ours any more; what was done by it may have been done twice.
            OutcomeUnknown: the connection was lost under way: it was given back, or lost before.
            Unavailable: the server could not be reached: the lease runs out by itself.
        """
        if self._released:
            return
        self._on_end(self)
        if self.lost is not None:
            raise self.lost
        op = ops.release(self.name, self.held.token, owner=self.held.owner)
        try:
            given = await self._executor.execute(op)
        except LeaseLost as error:
            self.lose(error)
            raise
        self._released = True
        for pause in RELEASE_PAUSES:
            if given:
                return
            # Given back, but nobody has it yet: its row was locked.
            await async_sleep(pause)
            try:
                given = await self._executor.execute(op)
            except LeaseLost:
                return  # One who waits has handed it on meanwhile.

    async def __aenter__(self) -> Self:
        self._refuse_released("use")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.release()
        except PgmemError as failure:
            if error is None:
                raise
            # The block's own error says more about what was done in it.
            log.warning("the lease %r was not given back: %s", self.name, failure)
        if error is None and self._lost is not None:
            raise self._lost
