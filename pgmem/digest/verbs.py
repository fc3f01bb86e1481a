"""Digests: what changed in a memory since a position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.validation import check_count, check_position
from pgmem.digest import ops
from pgmem.digest.models import ChangedEntry, Digest, StreamNews
from pgmem.digest.text import write_text
from pgmem.errors import InvalidInput
from pgmem.events.filter import EVERYTHING, EventFilter, Names
from pgmem.events.page import ALWAYS
from pgmem.events.reader import AsyncLogReader


async def read_digest(
    executor: AsyncPoolExecutor,
    reader: AsyncLogReader,
    since: int,
    *,
    keys: Sequence[str] | None,
    prefix: str | None,
    streams: Names | None,
    budget: int,
    count: Callable[[str], int],
) -> Digest:
    """Read what changed; see `AsyncMemory.digest`."""
    check_position(since, "since")
    check_count(budget, "budget", minimum=1)
    if not callable(count):
        raise InvalidInput(f"count= is a function of a text, got {type(count).__name__}")
    if isinstance(keys, str):
        raise InvalidInput("keys= is a sequence of keys, got one str")
    only_streams = streams is not None and keys is prefix is None
    only_entries = streams is None and (keys is not None or prefix is not None)
    wanted = EVERYTHING if streams is None else EventFilter.of(streams)
    entries: list[ChangedEntry] = []
    changed = 0
    news: list[StreamNews] = []
    # It raises if retention has removed what the digest would have to tell.
    await reader.read_now(
        wanted if only_streams else EVERYTHING, after=since, limit=1, since=ALWAYS
    )
    position = max(since, await reader.wait_until_stable())
    if not only_streams:
        entries, changed = await executor.execute(
            ops.changed_entries(since, position, keys=keys, prefix=prefix)
        )
    if not only_entries:
        news = await executor.execute(ops.new_events(since, position, wanted=wanted))
    written = write_text(since, entries, news, changed=changed, budget=budget, count=count)
    return Digest(since, position, entries, news, *written)
