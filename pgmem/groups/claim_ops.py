"""Claims: hand events of a group to a member, new ones or those that another member has left.

Makes the statement of each claim and reads its rows. `pgmem.groups.claims` decides which claim to
make and when. `pgmem.groups.delivery_ops` ends deliveries; `pgmem.groups.prefetch_ops` explains
prefetched events.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from pgmem.core.history import History
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import Seconds, check_count, check_name
from pgmem.errors import HistoryRewritten, InvalidEvent
from pgmem.events.durable_ops import check_lease
from pgmem.events.models import RecordedEvent
from pgmem.groups.delivery_ops import HeldDelivery, ack, held_params, lost_error, whole_params
from pgmem.groups.ops import Group, check_trimmed, not_found
from pgmem.groups.prefetch_ops import PREFETCH_SECONDS

MAX_LIMIT = 1_000
SKIP = 1_000
"""Positions without a selected event after which a group is moved over them."""
DELAYED_MOST, DELAYED_MOST_ORDERED = 10_000, 1_000
"""Most delayed events. With more, nothing new is handed out, or the delayed ones would pile up."""
WINDOW = 10
"""Events to look at for each one that was asked for, because keys may be with other members."""
MAX_EXPIRED = 1_000
"""Batches to take back in one statement."""


class ClaimResult(NamedTuple):
    """The events that a claim handed out, and what the group has left.

    Attributes:
        events: with the attempts of each, and what it is ordered by. An event that does not fit its
            class is there as its error.
        batch, token, expires_at: of all of them.
        position: the group's position. No selected event up to it is left to claim.
        expired: a batch's lease has expired. Take its events back first.
        due: a delayed event is due. Claim that first.
        looked: True if the claim looked for all of these.
        overtaken: another member moved the group while this claim waited, and may have prefetched
            events that this claim does not see.
        unfetched: a member left its prefetched events. Claim them first.
        prefetched: the number of prefetched events. If no event was handed out, 1 if another member
            has prefetched events.
        losses: how often members lost the one event of this batch.
        altered: the group was altered. Nothing was handed out: read its options first.
        promoted: the server is on a later timeline than the member or the group. Nothing was
            handed out: check what was read, and stamp the group.
        wait: seconds until another batch's lease ends or the next delayed event is due. None if
            there is neither, or if as many events were handed out as were asked for.
    """

    events: list[tuple[RecordedEvent | InvalidEvent, int, str | None]]
    batch: int
    token: int
    expires_at: datetime | None
    position: int
    expired: bool
    due: bool
    wait: float | None
    looked: bool = False
    overtaken: bool = False
    unfetched: bool = False
    prefetched: int = 0
    losses: int = 0
    altered: bool = False
    promoted: History | None = None


def nothing(position: int) -> ClaimResult:
    """Return a result without events, for a claim that was not made."""
    return ClaimResult([], 0, 0, None, position, False, False, None)


_DUE = """EXISTS (
               SELECT FROM {schema}.delayed
               WHERE group_name = %(group)s AND available_at <= clock_timestamp())"""
_DUE_ORDERED = """EXISTS (
               SELECT FROM (
                   SELECT DISTINCT ON (key) key, available_at FROM {schema}.delayed
                   WHERE group_name = %(group)s AND key IS NOT NULL ORDER BY key, position
               ) AS first
               WHERE available_at <= clock_timestamp() AND NOT EXISTS (
                   SELECT FROM {schema}.batches
                   WHERE group_name = %(group)s AND first.key = ANY (keys))
           ) OR EXISTS (
               SELECT FROM {schema}.delayed
               WHERE group_name = %(group)s AND key IS NULL
                 AND available_at <= clock_timestamp())"""
_OVERTAKEN = "coalesce(plan.start > before.position, false)"
_STALE = "EXISTS (SELECT FROM locked) AND NOT EXISTS (SELECT FROM current)"
_READY = "before.ready AND before.trimmed IS NULL"
_FIRST = "NOT before.expired AND NOT before.due AND NOT before.unfetched"
_READY_FRESH = f"{_READY} AND {{first}} AND NOT before.full AND before.position < %(until)s"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A member's request for events.

    Attributes:
        group: the group.
        member: the member's name.
        limit: the most events to claim.
        lease: seconds.
        event_of: makes an event from a row.
        alone: the member handles one event at a time. If it loses its lease with one event in hand,
            that event caused it, and an attempt counts.
        timeline: of the log that the member knows. The claim is refused on a later one, because
            positions that were stable before a promotion may not be. None for any.
        stamps: the group goes on by itself after a promotion.
    """

    group: Group
    member: str
    limit: int
    lease: float
    event_of: Callable[[Row], RecordedEvent | InvalidEvent]
    alone: bool = True
    timeline: int | None = None
    stamps: bool = True

    @classmethod
    def of(
        cls,
        group: Group,
        member: str,
        limit: int,
        lease: Seconds,
        event_of: Callable[[Row], RecordedEvent | InvalidEvent],
        *,
        alone: bool = True,
    ) -> ClaimRequest:
        """Check the options of a read.

        Raises:
            InvalidInput: an option is not allowed.
        """
        return cls(
            group,
            check_name(member, "member"),
            check_count(limit, "limit", minimum=1, maximum=MAX_LIMIT),
            check_lease(lease),
            event_of,
            alone,
        )

    @property
    def _action(self) -> str:
        return f"read from the group {self.group.name!r}"

    def _params(self) -> dict[str, Any]:
        ordered = self.group.ordered_by is not None
        return {
            **self.group.params(),
            **self._claim_params(),
            "revision": self.group.revision,
            "skip": SKIP,
            "prefetch_seconds": PREFETCH_SECONDS,
            "delayed_most": DELAYED_MOST_ORDERED if ordered else DELAYED_MOST,
        }

    def _claim_params(self) -> dict[str, Any]:
        return {
            "member": self.member,
            "limit": self.limit,
            "lease": self.lease,
            "alone": self.alone,
            "timeline": self.timeline,
            # Finds the batch again if the answer is lost. A program may have seeded `random`, so
            # that two processes would draw the same numbers.
            "claim": secrets.randbits(63),
        }

    def _op(self, statement: str, params: dict[str, Any], **marks: str) -> Op[ClaimResult]:
        ordered = self.group.ordered_by is not None
        texts = {
            **dict(self.group.selection.fragments()),
            "due": _DUE_ORDERED if ordered else _DUE,
            "acked": "true",
            "stale": "false",
            "overtaken": "false",
            "after": "",
            "settled": "",
            **marks,
        }
        return Op(
            statement,
            params,
            self._parse,
            self._action,
            # If the answer is lost, the caller first takes back what was claimed.
            Retry.UNSAFE,
            tuple(texts.items()),
        )

    def claim(
        self,
        until: int,
        acknowledged: Sequence[HeldDelivery] = (),
        *,
        passing: bool = False,
        prefetching: int = 0,
        empty: HeldDelivery | None = None,
        crowded: bool = True,
    ) -> Op[ClaimResult]:
        """Claim the next events up to `until`, which must be stable.

        Args:
            until: the stable position.
            acknowledged: deliveries to acknowledge in the same commit; not in an ordered group.
            passing: claim even if a lease has expired or a delayed event is due.
            prefetching: batches to prefetch, if the batch row is known.
            empty: a batch row that should have nothing in it.
            crowded: other members claim new events, and should not wait for this WAL flush.

        Raises (from `parse`):
            NotFound, HistoryRewritten, PositionTrimmed: the group cannot go on.
            LeaseLost: a member has lost one of `acknowledged`. Nothing was done.
            RetryStatement: execute it again.

        Raises (from the executor):
            OutcomeUnknown: the answer was lost. See `expire`.
        """
        if empty is not None and not acknowledged and self.group.ordered_by is None:
            return self._next_in(empty, until, prefetching, crowded=crowded)
        op = self._claim(until, acknowledged, passing=passing, prefetching=prefetching)
        if op.async_commit:
            op = op._replace(async_commit=crowded)
        if op.fallback:
            return op
        return op._replace(fallback=lambda lost: self.claim(until, acknowledged, passing=passing))

    def _claim(
        self, until: int, acknowledged: Sequence[HeldDelivery], *, passing: bool, prefetching: int
    ) -> Op[ClaimResult]:
        params = {**self._params(), "until": until}
        first = "true" if passing else _FIRST
        if self.group.ordered_by is None:
            if not acknowledged:
                op = self._op("group_claim", params, first=first, overtaken=_OVERTAKEN)
                return op if passing else op._replace(async_commit=True)
            if len({one.batch for one in acknowledged}) == 1:
                return self._next(params, acknowledged, prefetching)
            return self._ack_claim(params, acknowledged)
        params |= {"window": self.limit * WINDOW, "ordered_by": self.group.ordered_by}
        by_stream = self.group.ordered_by == "stream"
        return self._op(
            "group_claim_ordered",
            params,
            key="found.stream" if by_stream else "found.payload ->> %(ordered_by)s",
            ready=_READY_FRESH.replace("{first}", first),
            stale=_STALE,
        )

    def _ack_claim(
        self, params: dict[str, Any], acknowledged: Sequence[HeldDelivery]
    ) -> Op[ClaimResult]:
        return self._op(
            "group_ack_claim",
            params | held_params(acknowledged),
            acked="(SELECT ok FROM judged)",
            first=_FIRST,
            overtaken=_OVERTAKEN,
        )

    def _next(
        self, params: dict[str, Any], acknowledged: Sequence[HeldDelivery], prefetching: int
    ) -> Op[ClaimResult]:
        """Acknowledge one whole batch and claim the next, if nothing else comes first."""
        return Op(
            "group_next",
            {**params, **whole_params(acknowledged), "prefetching": prefetching},
            functools.partial(self._parse_next, acknowledged[-1].batch, params["until"]),
            self._action,
            Retry.UNSAFE,
            self.group.selection.fragments(),
            fallback=lambda lost: self._acknowledge(acknowledged),
            async_commit=True,
        )

    def _acknowledge(self, acknowledged: Sequence[HeldDelivery]) -> Op[ClaimResult]:
        """Acknowledge only. The next claim asks for events."""
        op = ack(self.group, acknowledged)

        def parse(rows: Sequence[Row]) -> ClaimResult:
            op.parse(rows)
            return nothing(0)

        return Op(op.statement, op.params, parse, self._action, Retry.UNSAFE, op.fragments)

    def _next_in(
        self, empty: HeldDelivery, until: int, prefetching: int, *, crowded: bool
    ) -> Op[ClaimResult]:
        """Claim into an empty batch row, with nothing to acknowledge."""
        batch = {"batch": empty.batch, "token": empty.token, "positions": "{}"}
        return Op(
            "group_next",
            {**self._params(), "until": until, **batch, "prefetching": prefetching},
            functools.partial(self._parse_next, empty.batch, until),
            self._action,
            Retry.UNSAFE,
            self.group.selection.fragments(),
            fallback=lambda lost: self.claim(until, crowded=crowded),
            async_commit=crowded,
        )

    def fetch(self, acknowledged: Sequence[HeldDelivery]) -> Op[ClaimResult]:
        """Acknowledge a whole batch and claim the events that were prefetched with it.

        If no prefetched event is left, the batch is acknowledged and nothing is claimed.

        Raises (from `parse`): as `claim`.
        """
        return Op(
            "group_claim_prefetched",
            {
                "group": self.group.name,
                **self._claim_params(),
                **whole_params(acknowledged),
            },
            functools.partial(self._parse_next, acknowledged[-1].batch, 0),
            self._action,
            Retry.UNSAFE,
            fallback=lambda lost: self._acknowledge(acknowledged),
        )

    def _parse_next(self, batch: int, until: int, rows: Sequence[Row]) -> ClaimResult:
        if not rows:
            raise RetryStatement
        front = next(row for row in rows if row[0] == 0)
        event_of = self.event_of
        events: list[tuple[RecordedEvent | InvalidEvent, int, str | None]]
        events = [(event_of(row), 1, None) for row in rows if row[0]]
        wait = front[4]
        return ClaimResult(
            events,
            batch,
            front[2] or 0,
            front[7],
            until if wait else rows[-1][0],
            False,
            False,
            float(wait) if wait and wait != "none" else None,
            bool(wait),
            bool(front[10]),
            prefetched=front[9],
        )

    def has_all(self, handed: ClaimResult, until: int) -> bool:
        """Return True if nothing is left to claim now up to `until`."""
        first = handed.expired or handed.due or handed.unfetched
        return (
            handed.looked
            and not first
            and handed.position >= until
            and len(handed.events) < self.limit
        )

    def claim_due(self) -> Op[ClaimResult]:
        """Claim delayed events that are due. Raises as `claim`."""
        if self.group.ordered_by is None:
            return self._op("group_claim_due", self._params())
        return self._op(
            "group_claim_due_ordered",
            self._params(),
            ready=_READY,
            stale=_STALE,
        )

    def _parse(self, rows: Sequence[Row]) -> ClaimResult:
        front = next(row for row in rows if row[0] == 0)
        told = orjson.loads(front[4])
        if (promoted := self._check(told)) is not None:
            return nothing(told["begun"])._replace(promoted=promoted)
        if told["altered"]:
            return nothing(told["position"])._replace(altered=True)
        positions = told["positions"] or ()
        attempts = dict(zip(positions, told["attempts"] or (), strict=False))
        keys = dict(zip(positions, told["keys"] or (), strict=False))
        events = [
            (self.event_of(row), attempts.get(row[0], 1), keys.get(row[0]))
            for row in rows
            if row[0]
        ]
        return ClaimResult(
            events,
            told["batch"] or 0,
            front[2] or 0,
            front[7],
            told["position"],
            told["expired"],
            told["due"],
            told["wait"],
            True,
            told["overtaken"],
            told["unfetched"],
            int(told["prefetched"]),
            told["losses"] or 0,
        )

    def _check(self, told: dict[str, Any]) -> History | None:
        """Raise if the group cannot go on. Return a later timeline in which it may go on."""
        if not told["found"]:
            raise not_found(self.group.name)
        stored, present = History._make(told["stored"]), History._make(told["present"])
        if stored != present and not (self.stamps and stored.leads_to(present)):
            raise self._rewritten(told)
        if stored != present or self.timeline not in (None, present.timeline):
            return present
        if told["trimmed"] is not None:
            raise check_trimmed(self.group, told["begun"], told["trimmed"])
        if told["acked"] is False:
            raise lost_error("ack", self.group, ())
        if told["stale"]:
            raise RetryStatement
        return None

    def _rewritten(self, told: dict[str, Any]) -> HistoryRewritten:
        was, now = History._make(told["stored"]), History._make(told["present"])
        return HistoryRewritten(
            f"read from the group {self.group.name!r} refused. Its position {told['begun']} was "
            f"made on the timeline {was.timeline} of the cluster {was.system_identifier}, and the "
            f"server is on the timeline {now.timeline} of the cluster {now.system_identifier} "
            f"(after a failover or a restore). Events up to it may be lost and their positions "
            f"used again. Check what you have done since, then accept the present history with "
            f"group.reset(position)",
            position=told["begun"],
            expected=was,
            found=now,
        )


def expire(group: Group, claims: Sequence[int] = ()) -> Op[int]:
    """Take back the events of batches whose lease expired, and of claims without an answer.

    Args:
        group: the group.
        claims: the numbers of claims whose answer did not arrive.

    Returns:
        The number of batches.
    """
    return Op(
        "group_expire",
        {"group": group.name, "claims": list(claims), "most": MAX_EXPIRED},
        lambda rows: int(rows[0][0]),
        f"take back lost events of the group {group.name!r}",
        Retry.IDEMPOTENT,
    )


def stamp(group: Group) -> Op[None]:
    """Let a group go on in the present timeline of its cluster."""
    return Op(
        "group_stamp",
        {"group": group.name},
        lambda rows: None,
        f"let the group {group.name!r} go on after a promotion",
        Retry.IDEMPOTENT,
    )
