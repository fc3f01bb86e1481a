"""Cut over (`--cut-over`): keep the old writers out, and import the rest.

1. Enter the phase "cutting over". Import everything; writers still write.
2. Fence the streams: a late XADD fails, and its writer gets an error.
3. Import the rest of the streams. No more entries can come.
4. Fence hashes and sets a moment later, because the writer of an entry writes its state next.
5. Run a last pass over hashes, sets and strings, and import the groups. Compare, if asked to.
6. Enter the phase "cut over". From now on writers write to pgmem.

If the process is killed, run it again and it continues. An acknowledged write was made before the
fence, so it is imported; a later one is refused. Strings cannot be fenced, so processes that use
SET NX must have stopped by step 5. Before step 6 only the import has written to pgmem. After it,
`pgmem.redis.importing.reverse` goes back.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from pgmem.redis.importing.fences import fence, fenced_name
from pgmem.redis.importing.keys import pages
from pgmem.redis.importing.rules import Kind
from pgmem.redis.importing.run import Import, Report, set_phase
from pgmem.redis.importing.verify import Comparison, compare

GRACE = 0.3
"""Seconds from the fence of the streams to that of the other keys."""


def cut_over(importer: Import, *, verify: bool = False) -> tuple[Report, Comparison | None]:
    """Cut over. With `verify`, do so only if both sides are equal.

    Raises:
        ImportConflict: the import is going back to Redis.
        SourceError: a key cannot be fenced.
    """
    context = importer.context
    importer.begin("cutting over")
    importer.run()
    context.watcher.say("fencing the streams, late writes are refused")
    # A stream that is created while the others are fenced is found by the next round.
    while _fence_all(importer, "stream"):
        pass
    importer.reopen()
    for stream in importer.streams.values():
        stream.drain()
    context.writer.wait()
    time.sleep(GRACE)
    context.watcher.say("fencing hashes and sets")
    while _fence_all(importer, "hash", "set"):
        pass
    importer.finish_pass(importer.new_pass())
    importer.import_groups()
    report = importer.finished()
    found = compare(importer) if verify else None
    if found is None or found.equal:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        set_phase(context, "cut over", at=now, over=True)
    return report, found


def _fence_all(importer: Import, *kinds: Kind) -> int:
    """Fence all keys of some types. Return the number of those that were not fenced yet."""
    context = importer.context
    words = (
        f"{datetime.now(UTC).isoformat(timespec='seconds')}, by the import {context.name!r}; the "
        f"data is in the key of this name with :before-pgmem behind it"
    )
    fenced = 0
    wanted = {
        name
        for name, allowed in context.rules.named.items()
        if allowed & set(kinds) and not context.source.call("EXISTS", name)
    }
    for found in pages(context.source, context.rules):
        wanted |= {
            key.physical
            for key in found
            if key.rule is not None and key.kind in kinds and key.physical != fenced_name(key.name)
        }
        for name in wanted:
            fence(context.source, name, words)
        fenced += len(wanted)
        wanted = set()
    return fenced
