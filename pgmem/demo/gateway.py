"""The payment gateway, which sends the scenario from the supervisor's process.

It does not know the agents. In the shared mode each request has an idempotency key, so that pgmem
ignores a retry. Each sending is also recorded in the demo's table, in the transaction of the event.
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
"""Connections, so that two payments of the same moment are sent at once."""


class Gateway:
    """Sends in a background thread after `start()`. Leaving the block stops it."""

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
        """Start to send."""
        self._thread.start()

    def finished(self) -> bool:
        """Return True if everything is sent.

        Raises:
            BaseException: The error that stopped the sending.
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
                senders.submit(self._send, sending).add_done_callback(self._record_failure)
            if self._stop.is_set():
                senders.shutdown(cancel_futures=True)

    def _record_failure(self, future: Future[None]) -> None:
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
                continue  # the server has rolled back all of it
            return
