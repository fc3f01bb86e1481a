"""Write a digest as text for a prompt, within a budget.

Each entry and each event is one line, and stands in the text as a whole or not at all. Lines are
taken by the sum of two ranks, how new the change is and how large. One that does not fit is left
out. Then they are put in order: entries first, then the events of each stream, newest first. The
same digest gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from pgmem.digest.models import ChangedEntry, StreamNews
from pgmem.errors import InvalidInput
from pgmem.events.models import RecordedEvent
from pgmem.state.fields import FieldChange

VALUE_CHARS = 200
"""Characters that one value takes at most."""
MAX_FIELDS = 20
"""Fields of one entry that its line names."""


class Text(NamedTuple):
    """The text of a digest.

    Attributes:
        text: the text.
        entries_left_out: how many entries are not in it.
        events_left_out: how many events are not in it.
    """

    text: str
    entries_left_out: int
    events_left_out: int


class _Line(NamedTuple):
    """A line of the text.

    Attributes:
        stream: the stream of an event; None for an entry.
        position: the position of the change.
        text: the line.
        size: the size of what it tells, before values are cut.
    """

    stream: str | None
    position: int
    text: str
    size: int


def write_text(
    since: int,
    entries: Sequence[ChangedEntry],
    streams: Sequence[StreamNews],
    *,
    changed: int,
    budget: int,
    count: Callable[[str], int],
) -> Text:
    """Write the text.

    Args:
        since: the position that the digest begins after.
        entries: the entries that changed.
        streams: the new events.
        changed: how many entries changed; more than `entries` if those are too many.
        budget: what `count` may return for the text.
        count: measures a text, in characters or tokens.

    Raises:
        InvalidInput: not even the line that says what is left out fits.
    """
    lines = [_entry_line(entry) for entry in entries]
    lines += [_event_line(event) for news in streams for event in news.events]
    events = sum(news.total for news in streams)

    def compose(chosen: Sequence[_Line]) -> Text:
        own = sum(line.stream is None for line in chosen)
        left = changed - own, events - (len(chosen) - own)
        return Text("\n".join(_compose(since, chosen, *left)), *left)

    chosen: list[_Line] = []
    spent = count(compose(chosen).text)
    for line in _ranked(lines):
        cost = count(f"{line.text}\n") + (0 if line.stream is None else count(f"{line.stream}:\n"))
        if spent + cost <= budget:
            chosen.append(line)
            spent += cost
    # A tokenizer may count a text higher than its lines.
    while count(compose(chosen).text) > budget:
        if not chosen:
            raise InvalidInput(
                f"a budget of {budget} is too small: the shortest digest takes "
                f"{count(compose([]).text)}"
            )
        chosen.pop()
    return compose(chosen)


def _ranked(lines: Sequence[_Line]) -> list[_Line]:
    """Sort lines by the sum of their ranks in newness and in size."""
    newest = sorted(lines, key=lambda line: -line.position)
    largest = sorted(newest, key=lambda line: -line.size)
    rank = {line.position: place for place, line in enumerate(newest)}
    for place, line in enumerate(largest):
        rank[line.position] += place
    return sorted(newest, key=lambda line: rank[line.position])


def _compose(since: int, chosen: Sequence[_Line], entries_left: int, events_left: int) -> list[str]:
    newest = sorted(chosen, key=lambda line: -line.position)
    text = [f"Changes since position {since}:"]
    text += [line.text for line in newest if line.stream is None]
    for stream in dict.fromkeys(line.stream for line in newest if line.stream is not None):
        text.append(f"{stream}:")
        text += [line.text for line in newest if line.stream == stream]
    if entries_left or events_left:
        text.append(f"Left out: {entries_left} changed entries, {events_left} events.")
    elif not chosen:
        text.append("None.")
    return text


def _entry_line(entry: ChangedEntry) -> _Line:
    by = f" by {', '.join(entry.agents)}" if entry.agents else ""
    if not entry.exists:
        what = "is gone" if entry.existed or not entry.certain else "was created and is gone"
        was = f", was {_json(entry.before)}" if entry.existed else ""
        text, size = f"- {entry.key} {what}{by}{was}", len(_full(entry.before))
    elif not entry.certain:
        text, size = f"- {entry.key} changed{by}: is {_json(entry.after)}", len(_full(entry.after))
    elif not entry.existed:
        text, size = f"- {entry.key} created{by}: {_json(entry.after)}", len(_full(entry.after))
    elif not entry.fields:
        text, size = f"- {entry.key} changed and changed back{by}", 0
    else:
        shown = [_field(change) for change in entry.fields[:MAX_FIELDS]]
        more = len(entry.fields) - len(shown)
        shown += [f"{more} more fields"] if more else []
        text = f"- {entry.key} changed{by}: {'; '.join(shown)}"
        size = sum(len(_full(f.before)) + len(_full(f.after)) for f in entry.fields)
    return _Line(None, entry.position, text, size)


def _field(change: FieldChange) -> str:
    if not change.existed:
        return f"{change.path} added {_json(change.after)}"
    if not change.exists:
        return f"{change.path} removed, was {_json(change.before)}"
    return f"{change.path} {_json(change.before)} -> {_json(change.after)}"


def _event_line(event: RecordedEvent) -> _Line:
    by = f" by {event.agent_id}" if event.agent_id else ""
    payload = _full(event.payload)
    shown = "" if event.payload is None else f": {_cut(payload)}"
    text = f"- [{event.position}] {event.type}{by}{shown}"
    return _Line(event.stream, event.position, text, len(payload))


def _full(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json(value: Any) -> str:
    return _cut(_full(value))


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"
