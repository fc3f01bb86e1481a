"""Do work that takes effect once on Redis done right; see `right`."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from benchmarks.arms import scripts
from benchmarks.arms.records import Claim, ClaimHeld, Event, LeaseLost, Outcome
from benchmarks.arms.right_events import EVENTS, RightEvents, milliseconds

KEY_TTL = 86_400.0
"""Seconds that a dedupe record is kept."""
LEASE = 30.0

Work = Callable[[], Any]


class Call(NamedTuple):
    """A script with its keys and arguments."""

    script: str
    keys: tuple[str, ...]
    args: tuple[Any, ...]


class RightOnce(RightEvents):
    """Do work once for a key, and payments."""

    def run_once(
        self,
        key: str,
        fn: Work,
        *,
        ttl: float = KEY_TTL,
        lease: float = LEASE,
        timeout: float = 60.0,
    ) -> Outcome:
        """Do work with effects elsewhere unless it is done; return its result either way.

        If another caller is at work, wait for its result or for its lease to expire.

        Args:
            key: names the work.
            fn: does the work and returns a JSON value.
            ttl: seconds that the result is kept.
            lease: seconds that the work may take.
            timeout: seconds to wait for another caller's work.

        Raises:
            ClaimHeld: another caller was still at work after `timeout`.
            LeaseLost: `fn` took too long; another caller may have done the work as well.
        """
        deadline = time.monotonic() + timeout
        pause = 0.005
        while True:
            try:
                claim = self.claim(key, lease=lease)
                break
            except ClaimHeld:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
            time.sleep(min(random.uniform(pause / 2, pause), remaining))  # noqa: S311  # no secret
            pause = min(pause * 1.5, 0.1)
        if claim.token is None:
            return Outcome(False, claim.result)
        try:
            result = fn()
        except BaseException:  # An interrupt must not leave the claim held.
            self.release(claim)
            raise
        self.complete(claim, result, ttl=ttl)
        return Outcome(True, result)

    def claim(self, key: str, *, lease: float = LEASE) -> Claim:
        """Claim a piece of work, or return its result.

        Raises:
            ClaimHeld: another caller is at work.
        """
        token = uuid.uuid4().hex
        found = self._redis.set(
            self._mark(key), f"c{token}", nx=True, get=True, px=milliseconds(lease)
        )
        if found is None:
            return Claim(key, token)
        if found.startswith(b"c"):
            raise ClaimHeld(key)
        return Claim(key, None, orjson.loads(found[1:]))

    def complete(self, claim: Claim, result: Any, *, ttl: float = KEY_TTL) -> None:
        """Store the result of claimed work.

        Raises:
            LeaseLost: the claim has expired or passed to another caller; nothing is stored.
        """
        stored = self._scripts[scripts.COMPLETE](
            keys=(self._mark(claim.key),),
            args=(claim.token or "", orjson.dumps(result), milliseconds(ttl)),
        )
        if not stored:
            raise LeaseLost(claim.key)

    def release(self, claim: Claim) -> None:
        """Release a claim; do nothing if it has expired or passed to another caller."""
        self._scripts[scripts.RELEASE](keys=(self._mark(claim.key),), args=(claim.token or "",))

    def append_once(
        self, key: str, event: Event, *, stream: str = EVENTS, ttl: float = KEY_TTL
    ) -> Outcome:
        """Append an event once for a key: dedupe record and event in one script.

        Return the event's id as the result, of the first call or of the earlier one.
        """
        first, identity = self._call(self.append_once_call(key, event, stream=stream, ttl=ttl))
        return Outcome(bool(first), identity)

    def append_once_call(
        self, key: str, event: Event, *, stream: str = EVENTS, ttl: float = KEY_TTL
    ) -> Call:
        """Return the call of `append_once`, for `together`."""
        return Call(
            scripts.APPEND_ONCE,
            (self._mark(key), self._stream(stream)),
            (event.type, orjson.dumps(event.payload), event.agent_id, milliseconds(ttl)),
        )

    def pay_call(
        self,
        key: str,
        sender: str,
        receiver: str,
        amount: int,
        *,
        payload: Mapping[str, Any],
        result: Any,
        outcomes: str = EVENTS,
        stream: str = EVENTS,
        ttl: float = KEY_TTL,
    ) -> Call:
        """Return the call that moves money once, for `together`.

        It writes the dedupe record, both balances with versions and events, and the outcome.

        All of it is in Redis, so one script does it and no version has to be expected. Amounts and
        balances are exact up to 2**53, because Lua's numbers are doubles.

        Args:
            key: names the payment.
            sender, receiver: two keys whose values are `{"balance": int, "currency": str}`.
            amount: the amount.
            payload: of the event `payment.processed` or `payment.declined`, not empty; the earlier
                balances are added to it.
            result: kept for callers with the same key, and answered to them.
            outcomes: the stream of that event.
            stream: the stream of the balances' events.
            ttl: seconds that the dedupe record is kept.
        """
        if sender == receiver or not payload:
            raise ValueError("a payment needs two accounts and a payload")
        return Call(
            scripts.PAY,
            (self._mark(key), self._state, self._stream(stream), self._stream(outcomes)),
            (
                sender,
                receiver,
                amount,
                orjson.dumps(payload),
                orjson.dumps(result),
                self._agent_id,
                milliseconds(ttl),
            ),
        )

    def together(self, calls: Iterable[Call]) -> list[Any]:
        """Execute scripts in one round trip, each by itself, and return their answers."""
        with self._redis.pipeline(transaction=False) as pipe:
            for script, keys, args in calls:
                # Not the script object, which would ask in a further round trip if it is loaded.
                pipe.evalsha(self._scripts[script].sha, len(keys), *keys, *args)
            answers: list[Any] = pipe.execute()
        return answers

    def _call(self, call: Call) -> Any:
        return self._scripts[call.script](keys=call.keys, args=call.args)
