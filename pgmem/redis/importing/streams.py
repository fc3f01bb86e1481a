"""Import one stream of Redis into one stream of the log, in order, each entry once.

A page begins with the last imported entry. If that entry still exists, no entry after it was
trimmed unread, because MAXLEN and XTRIM remove the oldest first. Otherwise the stream's own count
of entries says how many were::

    entries-added ─ length  =  number of entries before the first existing one
    passed                  =  number of entries up to the last imported one
    the difference          =  number of entries that were trimmed unread

One page is read while the page before is written. This module does not retry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgmem.redis import ImportedEvent, ImportPart
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import Shape, Streams, Unfit, text
from pgmem.redis.importing.fences import locate
from pgmem.redis.importing.keys import shown
from pgmem.redis.importing.positions import number
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.rules import Rule
from pgmem.redis.importing.source import KeyFault, Refused, key_error

PAGE = 2_000
"""Entries in a page, and in a step."""
PAGE_BYTES = 4 * 2**20
"""Target size of a page. Pages of large entries have fewer entries."""

END_OF_STREAM = (
    "the stream ends by itself in Redis (EXPIRE), and was imported without its end: pgmem keeps "
    "its events until a retention policy or you remove them (pgmem retention, pgmem trim)"
)

Entry = tuple[bytes, list[bytes]]


class Info(NamedTuple):
    """The state of a stream.

    Attributes:
        length: number of entries.
        last: the last generated id.
        added: number of entries that were ever added; None before Redis 7.
        first: the id of the oldest entry; None if there is none.
    """

    length: int
    last: bytes
    added: int | None
    first: bytes | None

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Info:
        """Parse the answer to XINFO STREAM."""
        found = dict(zip(answer[::2], answer[1::2], strict=True))
        first = found.get(b"first-entry")
        return cls(
            found[b"length"],
            found[b"last-generated-id"],
            found.get(b"entries-added"),
            first[0] if first else None,
        )

    @property
    def gone(self) -> int | None:
        """The number of entries that were removed before the first existing one."""
        return None if self.added is None else self.added - self.length


class Page(NamedTuple):
    """A page of entries.

    Attributes:
        entries: the entries after the last imported one.
        info: the state of the stream at that moment.
        unbroken: the last imported entry still exists.
    """

    entries: list[Entry]
    info: Info
    unbroken: bool


class StreamImport:
    """Import one stream from where the last run stopped.

    Args:
        context: the objects of the import.
        key: the key of the stream.
        rule: its rule.

    Attributes:
        key: the key of the stream.
        name: the key as text.
        rule: its rule.
        part: the part as the last step returned it.
        read_to: the id of the last entry that was read.
        physical: the present name of the key in Redis.
        info: its state when it was read last; None before.
        missed: number of entries that were trimmed before they were read; None if unknown.
        ends: it ends by itself in Redis.

    Raises:
        Unfit, InvalidInput: the key cannot be the name of a stream.
        ImportConflict: another import fills the same stream of the log.
    """

    def __init__(self, context: Context, key: bytes, rule: Rule) -> None:
        self._context = context
        self.key = key
        self.name = text(key, "the key")
        self.rule = rule
        self._converter = Streams(rule.values)
        self.part: ImportPart = context.imports.open(
            context.name, f"stream {self.name}", target=rule.name(self.name)
        )
        detail = self.part.detail
        self._passed: int | None = detail.get("passed", 0)
        self.read_to = self.part.cursor
        self.missed: int | None = detail.get("missed", 0)
        self._count = PAGE
        self._told_gone = False
        self.ends = False
        self.physical = locate(context.source, key)
        self.info: Info | None = None

    def drain(self, *, most: int | None = None) -> int:
        """Import the entries. Return their number.

        Args:
            most: stop after about this many entries; None for all.
        """
        moved = 0
        while most is None or moved < most:
            asked, page = self._count, self._page()
            if page is None:
                break
            moved += len(page.entries)
            gaps = self._find_gap(page)
            if page.entries or gaps:
                self._write(page, gaps)
            if len(page.entries) < asked:
                break
        return moved

    def drain_to(self, identity: bytes) -> None:
        """Import the entries up to an id, and wait until they are written."""
        while number(self.read_to or "0-0") < number(identity) and self.drain(most=PAGE):
            pass
        self._context.writer.wait()

    def begin_writing_back(self) -> None:
        """Choose the ids of entries that are written back.

        An id is a time after all existing entries, and the position of the event. So each is found
        from the other.
        """
        if "base" in self.part.detail:
            return
        seconds, micros = self._context.source.call("TIME")
        now = int(seconds) * 1_000 + int(micros) // 1_000
        # A stream that was deleted in Redis continues after its old ids.
        info = self._info()
        last = max(number(self.read_to or "0-0"), number(info.last if info else "0-0"))
        base = max(now, last[0] + 1)
        self._advance({**self.part.detail, "base": base})

    def _info(self) -> Info | None:
        """Return the state of the stream; None if there is none."""
        (answer,) = self._context.source.many([("XINFO", "STREAM", self.physical)])
        if isinstance(answer, Refused):
            self._no_stream(answer)
            return None
        return Info.of(answer)

    def written_id(self, position: int) -> str:
        """Return the id of the entry that the event at this position was written back as."""
        for _, until in self.part.detail.get("skipped", ()):
            if position <= number(until)[1]:
                return f"{number(until)[0]}-{position}"
        return f"{self.part.detail['base']}-{position}"

    def written_position(self, identity: tuple[int, int]) -> int | None:
        """Return the position of the event that was written back as an entry, or None."""
        for after, until in self.part.detail.get("skipped", ()):
            if number(after) < identity <= number(until):
                return identity[1] if identity[0] == number(until)[0] else None
        return None

    def skip_to_end(self) -> None:
        """Skip the existing entries, which are in pgmem already.

        A stream that has ended or was deleted in Redis has none. If it is created again, the
        import continues with it.
        """
        info = self._info()
        if info is None:
            self._advance({name: kept for name, kept in self.part.detail.items() if name != "base"})
            return
        self._passed, last = info.added, info.last.decode()
        skipped = self.part.detail.get("skipped", [])
        if number(last) > number(self.read_to or "0-0"):
            skipped = [*skipped, [self.read_to or "0-0", last]]
            self.read_to = last
        detail = {name: known for name, known in self.part.detail.items() if name != "base"}
        self._advance(
            {**detail, "key": self.name, "passed": self._passed, "skipped": skipped},
        )

    def _advance(self, detail: dict[str, Any]) -> None:
        self.part = self._context.imports.advance(self.part, cursor=self.read_to, detail=detail)

    @property
    def behind(self) -> int | None:
        """The number of entries that have not been read; None if unknown."""
        if self.info is None or self.info.added is None or self._passed is None:
            return None
        return max(0, self.info.added - self._passed)

    def _page(self) -> Page | None:
        """Read the next page. Return None if there is no stream."""
        source, after = self._context.source, self.read_to
        count = self._count + bool(after)
        info, ttl, found = source.many(
            [
                ("XINFO", "STREAM", self.physical),
                ("PTTL", self.physical),
                ("XRANGE", self.physical, after or "-", "+", "COUNT", count),
            ],
            atomic=True,
        )
        if isinstance(info, Refused):
            self._no_stream(info)
            return None
        with key_error(self.name):
            for answer in (ttl, found):
                if isinstance(answer, Refused):
                    raise answer
        self._note_end(ttl)
        self.info = Info.of(info)
        if after and number(self.info.last) < number(after):
            raise KeyFault(
                f"the stream {self.name!r} of Redis is not the one that was imported before. Its "
                f"last id is {self.info.last.decode()}, and {after} has been imported. It was "
                f"deleted and created again, or this is another Redis. Import it under another "
                f"name (--name), into another stream (--stream KEY=NAME)"
            )
        unbroken = not after or bool(found and found[0][0].decode() == after)
        entries = [(entry[0], entry[1]) for entry in found]
        if after and unbroken:
            del entries[0]
        return Page(entries[: self._count], self.info, unbroken)

    def _note_end(self, ttl: int) -> None:
        """List the end of the stream, which is not imported."""
        if ttl >= 0 and not self.ends:
            self._context.refuse([(Item("end", self.key), END_OF_STREAM)])
        self.ends = ttl >= 0

    def _no_stream(self, answer: Refused) -> None:
        if "no such key" not in answer.reason:
            with key_error(self.name):
                raise answer
        if self.read_to and not self._told_gone:
            self._told_gone = True
            self._context.watcher.say(
                f"the stream {self.name!r} is no longer in Redis; it was read up to {self.read_to}"
            )

    def _write(self, page: Page, gaps: list[tuple[Item, str]]) -> None:
        """Convert a page, and write it while the next one is read."""
        events: list[ImportedEvent] = []
        given: list[Entry] = []
        refused: list[tuple[Item, str]] = []
        event_of = self._converter.event
        for entry in page.entries:
            try:
                events.append(event_of(*entry))
                given.append(entry)
            except Unfit as error:
                refused.append((self._item(entry), str(error)))
        batch = self._context.imports.check_events(events)
        self._adapt(events)
        refused += [(self._item(given[place]), reason) for place, reason in batch.refused]
        if page.entries:
            self.read_to = page.entries[-1][0].decode()
        if self._passed is not None:
            self._passed += len(page.entries)
        last = self.read_to
        detail = {
            **self.part.detail,
            "key": self.name,
            "passed": self._passed,
            "missed": self.missed,
            "names": _names(self._converter.shape) or self.part.detail.get("names", []),
        }

        def write() -> None:
            self._context.refuse([*gaps, *refused])
            self.part = self._context.imports.append_events(
                self.part, batch, cursor=last, refused=len(refused), detail=detail
            )
            self._context.watcher.moved("stream", batch.size, len(refused))

        self._context.writer.write(write)

    def _item(self, entry: Entry) -> Item:
        return Item("entry", self.key, *entry)

    def _find_gap(self, page: Page) -> list[tuple[Item, str]]:
        """Return the gap before a page, and update the number of passed entries."""
        info = page.info
        if not self.read_to:
            self._passed = info.gone
            return []
        first = page.entries[0][0] if page.entries else None
        if page.unbroken or first != info.first:
            return []  # XDEL may have removed the last imported entry alone
        missed = None
        if info.gone is not None and self._passed is not None:
            missed = info.gone - self._passed
            self._passed = info.gone
        return [] if missed == 0 else [self._gap(first, missed)]

    def _gap(self, first: bytes | None, missed: int | None) -> tuple[Item, str]:
        """Describe entries that were removed before they were read.

        A negative number means that the stream was deleted and created again, with a new count.
        """
        if missed is None or missed < 0:
            self.missed, many = None, "an unknown number of entries"
        else:
            self.missed = None if self.missed is None else self.missed + missed
            many = f"{missed} entries"
        until = f" and {first.decode()}" if first else " and the end"
        why = (
            f"{many} between {self.read_to}{until} were trimmed or deleted (MAXLEN, XTRIM, DEL) "
            f"before they were read"
        )
        return Item("gap", self.key, self.read_to.encode()), why

    def _adapt(self, events: Sequence[ImportedEvent]) -> None:
        """Adapt the size of the next page to the size of the entries."""
        size = sum([len(event.payload) for event in events])
        if size:
            self._count = max(10, min(PAGE, len(events) * PAGE_BYTES // size))

    def __repr__(self) -> str:
        return f"<StreamImport {shown(self.key)!r} at {self.read_to or 'the beginning'}>"


def _names(shape: Shape | None) -> list[str]:
    return list(shape.names) if shape is not None else []
