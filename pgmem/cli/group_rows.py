"""The rows and JSON objects that `pgmem groups` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgmem.cli.output import Column, count_of, event_data, json_text, moment, short_moment

if TYPE_CHECKING:
    from pgmem.groups.models import DeadLetter, GroupInfo, Pending

GROUPS = (
    Column("GROUP", style="key"),
    Column("POSITION", right=True),
    Column("LAG", right=True),
    Column("HELD", right=True),
    Column("DELAYED", right=True),
    Column("DEAD", right=True),
    Column("FOLLOWS"),
)
PENDING = (
    Column("POSITION", right=True),
    Column("ATTEMPTS", right=True),
    Column("MEMBER", style="agent"),
    Column("UNTIL", style="faint"),
    Column("ERROR", style="error"),
)
DEAD = (
    Column("POSITION", right=True),
    Column("FAILED", style="faint"),
    Column("STREAM", style="key"),
    Column("TYPE", style="type"),
    Column("ATTEMPTS", right=True),
    Column("MEMBER", style="agent"),
    Column("ERROR", style="error"),
)


def info_data(info: GroupInfo, lag: int) -> dict[str, Any]:
    """Return a group as a JSON object."""
    return {
        "name": info.name,
        "selection": info.selection,
        "ordered_by": info.ordered_by,
        "max_attempts": info.max_attempts,
        "retry": asdict(info.retry),
        "position": info.position,
        "lag": lag,
        "held": info.held,
        "delayed": info.delayed,
        "dead_letters": info.dead_letters,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
    }


def pending_data(event: Pending) -> dict[str, Any]:
    """Return an open event as a JSON object."""
    return {
        "position": event.position,
        "member": event.member,
        "attempts": event.attempts,
        "delayed": event.delayed,
        "claimed_at": event.claimed_at,
        "until": event.until,
        "error": event.error,
    }


def dead_data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as a JSON object."""
    return {
        "position": letter.position,
        "attempts": letter.attempts,
        "member": letter.member,
        "error": letter.error,
        "failed_at": letter.failed_at,
        "event": None if letter.event is None else event_data(letter.event),
    }


def _follows(selection: dict[str, Any]) -> str:
    """Return a selection as text, such as `stream=orders, type=placed`."""
    if not selection:
        return "all events"
    return ", ".join(_choice(name, value) for name, value in selection.items())


def _choice(name: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        name, value = name.removesuffix("s"), value[0]
    return f"{name}={value if isinstance(value, str) else json_text(value)}"


def about(info: GroupInfo, lag: int) -> Iterator[tuple[str, str]]:
    """Yield the lines about a group, with their labels."""
    yield "group", info.name
    yield "follows", _follows(info.selection)
    yield "ordered by", info.ordered_by or "nothing"
    yield "attempts", f"at most {info.max_attempts:,}"
    yield "retry", f"after {info.retry.backoff:g} s, doubled up to {info.retry.max_backoff:g} s"
    yield "position", f"{info.position:,}, {count_of(lag, 'event')} behind"
    yield "open", f"{info.held:,} held, {info.delayed:,} delayed"
    yield "dead", f"{info.dead_letters:,}"
    yield "created", moment(info.created_at)
    yield "updated", moment(info.updated_at)


def info_row(info: GroupInfo, lag: int) -> tuple[str, ...]:
    """Return a group's row."""
    numbers = (info.position, lag, info.held, info.delayed, info.dead_letters)
    return (info.name, *(f"{number:,}" for number in numbers), _follows(info.selection))


def pending_row(event: Pending) -> tuple[str, ...]:
    """Return an open event's row."""
    return (
        str(event.position),
        f"{event.attempts:,}",
        "(delayed)" if event.member is None else event.member,
        short_moment(event.until),
        event.error or "",
    )


def dead_row(letter: DeadLetter) -> tuple[str, ...]:
    """Return a dead letter's row."""
    event = letter.event
    return (
        str(letter.position),
        short_moment(letter.failed_at),
        "(trimmed)" if event is None else event.stream,
        "" if event is None else event.type,
        f"{letter.attempts:,}",
        letter.member or "-",
        letter.error or "",
    )
