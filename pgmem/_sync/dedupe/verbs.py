# Generated from pgmem/dedupe/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.dedupe`: work that takes effect once.

`Dedupe` is for effects elsewhere, such as a call to a bank: claim the work for the time of a
lease, do it, store its result. `TransactionDedupe` is for effects in this database: the record
and the effects commit together. `pgmem.dedupe.ops` shows the states.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from pydantic import BaseModel

from pgmem._sync.core.database import log
from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.core.transaction import TransactionExecutor
from pgmem._sync.dedupe.renewer import ClaimRenewer
from pgmem._sync.events.transaction_verbs import DEFAULT_KEY_TTL
from pgmem.core.concurrency import GRACE, passthrough, sleep
from pgmem.core.encoding import decoder
from pgmem.core.op import Op
from pgmem.core.validation import Seconds, check_seconds
from pgmem.dedupe import ops
from pgmem.dedupe.models import Claim, Outcome
from pgmem.errors import (
    CallbackFailed,
    InvalidInput,
    InvalidValue,
    LeaseHeld,
    LeaseLost,
    PgmemError,
    ValueTooLarge,
)
from pgmem.events.codec import Codec

Work = Callable[[], Any]

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two tries to claim work that another caller does."""

NO_RESULT = "null"
"""The JSON text that is stored for work without a result."""


class Dedupe:
    """Idempotency keys for work whose effects are elsewhere. Reached as `memory.dedupe`."""

    def __init__(self, executor: PoolExecutor, codec: Codec, renewer: ClaimRenewer) -> None:
        self._executor = executor
        self._codec = codec
        self._renewer = renewer

    def run_once(
        self,
        key: str,
        fn: Work,
        *,
        fingerprint: Any = None,
        model: type[BaseModel] | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        lease: Seconds = 30.0,
        timeout: Seconds | None = 60.0,
    ) -> Outcome:
        """Do a piece of work unless it has been done. Return its result either way.

        If another caller does the work now, wait for its result. The claim of the key is renewed
        while `fn` runs. If the process dies, the claim runs out within `lease`, and a waiting
        caller does the work. The effect and the record cannot be atomic: a crash between the two
        does the work again. If the effects are in this database, use `tx.dedupe.run_once`, where
        they are atomic.

        >>> def charge() -> dict[str, str]:
        ...     return {"reference": "r-1"}
        >>> order = {"order": 17, "amount": 5}
        >>> memory.dedupe.run_once("charge:17", charge, fingerprint=order)
        Outcome(status='processed', result={'reference': 'r-1'})
        >>> memory.dedupe.run_once("charge:17", charge, fingerprint=order)
        Outcome(status='skipped', result={'reference': 'r-1'})

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work and returns a JSON value or a pydantic model as its result.
            fingerprint: what must be the same under one key, such as the order: a JSON value or a
                pydantic model, of which a digest is stored. None does not compare.
            model: validate the result with this pydantic model and return an instance of it.
                Without it, the result is a JSON value, also if `fn` returned a model.
            ttl: how long the result is kept and the work not done again, in seconds or as a
                timedelta; None for ever.
            lease: how long after the death of this process another caller may do the work. It is
                renewed every third of that, as long as this process and its event loop run.
            timeout: how long to wait for the work of another caller; 0 does not wait, None waits
                for ever.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`). The claim is released.
            IdempotencyMismatch: the key was used before with another `fingerprint`.
            InvalidValue: the result of `fn` would not come back equal, or does not fit `model`. The
                work is done and recorded without a result: another call is skipped and returns the
                result None.
            LeaseHeld: another caller was still at work after `timeout`.
            LeaseLost: the claim could not be renewed in time and another caller took the work.
        """
        keep, hold = _check_ttl(ttl), check_seconds(lease, "lease")
        longest = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        digest = ops.digest(fingerprint, self._codec)
        claim = self._wait_for_claim(key, hold, longest, digest, model)
        if not claim.acquired:
            return Outcome("skipped", claim.result)
        found = self._call(claim, fn)
        try:
            text, result = _encode_result(found, self._codec, model)
        except PgmemError as error:
            # The work is done. If the claim were released, the next caller would do it again.
            self._finish(claim, NO_RESULT, keep)
            raise _not_stored(key, error) from error
        self._finish(claim, text, keep)
        return Outcome("processed", result)

    def _call(self, claim: Claim, fn: Work) -> Any:
        """Do claimed work. If it fails, release the claim."""
        try:
            return passthrough(fn())
        except Exception as error:
            self._release_failed(claim)
            if isinstance(error, PgmemError):
                raise
            consequence = "the claim was released, nothing is recorded"
            raise _failed(claim.key, error, consequence) from error
        except BaseException:  # such as a cancellation, which would end the release, too
            self._executor.background.run_for(GRACE, self._release_failed, claim)
            raise

    def _finish(self, claim: Claim, text: str, ttl: float | None) -> None:
        """Complete the claim of work that is done."""
        try:
            self._complete(claim, text, ttl)
        finally:
            self._renewer.remove(claim)

    def _wait_for_claim(
        self,
        key: str,
        lease: float,
        timeout: float | None,
        fingerprint: bytes | None,
        model: type[BaseModel] | None,
    ) -> Claim:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            try:
                return self._claim(key, lease, fingerprint, model)
            except LeaseHeld:
                wait = random.uniform(pause / 2, pause)  # noqa: S311  # no secret
                if deadline is not None:
                    wait = min(wait, deadline - time.monotonic())
                    if wait <= 0:
                        raise
            sleep(wait)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _release_failed(self, claim: Claim) -> None:
        try:
            self.release(claim)
        except (PgmemError, psycopg.Error, OSError) as error:
            # The exception of the work says more. The lease runs out by itself.
            log.warning("could not release the claim of %r: %s", claim.key, error)
        finally:
            self._renewer.remove(claim)

    def claim(
        self,
        key: str,
        *,
        fingerprint: Any = None,
        model: type[BaseModel] | None = None,
        lease: Seconds = 30.0,
    ) -> Claim:
        """Claim a piece of work, or return its stored result.

        The claim is renewed until it is completed or released, as long as the caller keeps the
        `Claim` and this process runs.

        Args:
            key: names the work, 1 to 512 bytes.
            fingerprint, model: as for `run_once`.
            lease: how long after the death of this process another caller may claim the work, in
                seconds or as a timedelta.

        Returns:
            A claim with `acquired=True` and a fencing token, or `acquired=False` and the result.

        Raises:
            LeaseHeld: the lease of another caller is running.
            IdempotencyMismatch: the key was used before with another `fingerprint`.
        """
        digest = ops.digest(fingerprint, self._codec)
        return self._claim(key, check_seconds(lease, "lease"), digest, model)

    def _claim(
        self, key: str, lease: float, fingerprint: bytes | None, model: type[BaseModel] | None
    ) -> Claim:
        op = ops.claim(
            key, owner=uuid.uuid4().hex, lease=lease, fingerprint=fingerprint, model=model
        )
        try:
            claim = self._executor.execute(op)
        except Exception:
            raise
        except BaseException:
            # It may have been claimed. The same op tells, because it has the same owner.
            self._executor.background.run_for(GRACE, self._release_unknown, op)
            raise
        if claim.acquired:
            self._renewer.add(claim, lease)
        return claim

    def _release_unknown(self, op: Op[Claim]) -> None:
        with suppress(PgmemError, psycopg.Error, OSError):  # Then the lease runs out.
            claim = self._executor.execute(op)
            if claim.acquired:
                self.release(claim)

    def complete(
        self, claim: Claim, result: Any = None, *, ttl: Seconds | None = DEFAULT_KEY_TTL
    ) -> None:
        """Store the result of claimed work. From now on the work is done.

        Args:
            claim: what `claim` returned.
            result: a JSON value or a pydantic model.
            ttl: how long the result is kept and the work not done again; None for ever.

        Raises:
            LeaseLost: the lease ran out and another caller claimed the work; nothing was stored.
            InvalidValue: the result would not come back equal; nothing was sent, and the claim is
                still held.
        """
        text = self._codec.encode(result, "result")
        self._complete(_check_acquired(claim), text, _check_ttl(ttl))

    def _complete(self, claim: Claim, text: str, ttl: float | None) -> None:
        self._end(claim, ops.complete(claim.key, token=claim.token, result=text, ttl=ttl))

    def release(self, claim: Claim) -> None:
        """Delete a claim without a result, so that the next caller may do the work.

        Raises:
            LeaseLost: the lease ran out and another caller claimed the work.
        """
        self._end(claim, ops.release(_check_acquired(claim).key, token=claim.token))

    def _end(self, claim: Claim, op: Op[None]) -> None:
        try:
            self._executor.execute(op)
        except LeaseLost:
            self._renewer.remove(claim)
            raise
        self._renewer.remove(claim)


class TransactionDedupe:
    """Idempotency keys for work whose effects are in this transaction. Reached as `tx.dedupe`."""

    def __init__(self, executor: TransactionExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    def run_once(
        self,
        key: str,
        fn: Work,
        *,
        fingerprint: Any = None,
        model: type[BaseModel] | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> Outcome:
        """Do a piece of work unless it has been done. Return its result either way.

        The record, the result and what `fn` does in this transaction commit together or not at all.
        A second caller waits until the transaction of the first one has ended. If `fn` raises, its
        effects and the record are undone and the transaction stays usable.

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work in this transaction and returns a JSON value or a pydantic model.
            fingerprint, model: as for `memory.dedupe.run_once`.
            ttl: how long the result is kept and the work not done again, in seconds or as a
                timedelta; None for ever.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`).
            IdempotencyMismatch: the key was used before with another `fingerprint`.
            LeaseHeld: a caller of `memory.dedupe` has claimed the work.
            InvalidValue: the result of `fn` would not come back equal, or does not fit `model`; its
                effects are undone.
            TransactionConflict: run the whole transaction again.
        """
        digest = ops.digest(fingerprint, self._codec)
        record = self._executor.execute(
            ops.record(key, ttl=_check_ttl(ttl), fingerprint=digest, model=model)
        )
        if not record.acquired:
            return Outcome("skipped", record.result)
        try:
            with self._executor.nested():
                return Outcome("processed", self._work(key, fn, record, model))
        except BaseException:
            # The savepoint comes after the record, so that a skipped call costs one round trip.
            if self._executor.usable():
                self._executor.execute(ops.remove_record(key, token=record.token))
            raise

    def _work(self, key: str, fn: Work, record: Claim, model: type[BaseModel] | None) -> Any:
        try:
            found = passthrough(fn())
        except PgmemError:
            raise
        except Exception as error:
            raise _failed(key, error, "its effects are undone, nothing is recorded") from error
        text, result = _encode_result(found, self._codec, model)
        if found is not None:
            self._executor.defer(ops.record_result(key, token=record.token, result=text))
        return result


def _encode_result(result: Any, codec: Codec, model: type[BaseModel] | None) -> tuple[str, Any]:
    """Return a result as JSON text, and as every caller gets it.

    Raises:
        InvalidValue: it would not come back equal, or does not fit the model.
    """
    try:
        text = codec.encode(result, "result")
        if result is None and model is not None:
            return text, None
        return text, decoder(model, "result")(text)
    except PgmemError:
        raise
    except Exception as error:  # a comparison of the user's
        raise InvalidValue(f"result: encoding it raised {type(error).__name__}") from error


def _check_acquired(claim: Claim) -> Claim:
    if not isinstance(claim, Claim):
        raise InvalidInput(f"expected a Claim, got {type(claim).__name__}")
    if not claim.acquired:
        raise InvalidInput(
            f"the claim of {claim.key!r} was not acquired: the work is done, use its result"
        )
    return claim


def _check_ttl(ttl: Seconds | None) -> float | None:
    return None if ttl is None else check_seconds(ttl, "ttl")


def _failed(key: str, error: Exception, consequence: str) -> CallbackFailed:
    return CallbackFailed(
        f"run_once of {key!r}: the function raised {type(error).__name__}; {consequence}"
    )


def _not_stored(key: str, error: PgmemError) -> InvalidValue:
    """Return the error for work that is done and whose result cannot be stored."""
    message = (
        f"{error}. The work under the key {key!r} is done, and its result is not stored: "
        f"another call is skipped and returns the result None"
    )
    if isinstance(error, ValueTooLarge):
        return ValueTooLarge(message, size=error.size, limit=error.limit)
    return InvalidValue(message)
