"""The payment gateway: sends the scenario at its times, from the supervisor's own process.

It knows nothing of the agents. In the shared mode each request carries an idempotency key, so that
a retry is refused by pgmem; what it sends it also notes down in its own table, in the same
transaction as the event.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from pgmem import Event, Memory
from pgmem.demo import bank
from pgmem.demo.run import Run
from pgmem.demo.scenario import Scenario, Sending
from pgmem.errors import TransactionConflict

SENDERS: Final = 4
"""Connections, so that two payments of the same moment really are under way at once."""


class Gateway:
    """Sends in the background from `start()` on; leaving the block stops it."""

    def __init__(self, memory: Memory, run: Run, scenario: Scenario) -> None:
        self._memory = memory
        self._run = run
        self._sendings = scenario.sendings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=15)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def finished(self) -> bool:
        """Whether all is sent.

        Raises:
            BaseException: what went wrong while sending.
        """
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _send_all(self) -> None:
        begin = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            for sending in self._sendings:
                if self._stop.wait(max(0.0, begin + sending.at - time.monotonic())):
                    break
                senders.submit(self._send, sending).add_done_callback(self._note_failure)
            if self._stop.is_set():
                senders.shutdown(cancel_futures=True)

    def _note_failure(self, future: Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failure = self._failure or error
            self._stop.set()

    def _send(self, sending: Sending) -> None:
        run, request_id = self._run, sending.request_id
        event = Event(
            type="payment.received",
            payload={**sending.payment.to_json(), "request_id": request_id},
            agent_id="gateway",
        )
        key = run.name(f"request/{request_id}") if run.mode == "shared" else None
        while True:
            try:
                with self._memory.transaction() as tx:
                    tx.events.append(run.incoming, event, idempotency_key=key)
                    bank.record_sending(tx.connection, run, sending)
            except TransactionConflict:
                continue  # The server undid all of it.
            return
