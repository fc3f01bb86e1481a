"""The cut-over (`--cut-over`): the old writers are kept out, and the rest is brought in.

::

    1  cutting over   bring in what there is; writers still write
    2                 fence the streams: a late XADD fails, and its writer learns of it
    3                 bring in the rest of the streams; now nothing can come any more
    4                 fence hashes and sets, a moment later: who had added an entry writes its state
    5                 a last pass over hashes, sets and strings; the groups; compare, if asked to
    6  cut over       the writers write to pgmem

Killed anywhere, it is run again and goes on. An acknowledged write was made before the fence, so it
is brought in; one that comes later was refused. Strings cannot be fenced: whoever uses SET NX must
have stopped by 5. Until 6 nothing has been written to pgmem but by the import, and after it
`pgmem.redis.importing.reverse` leads back.
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
"""Seconds from the fence of the streams to that of the rest."""


def cut_over(importer: Import, *, verify: bool = False) -> tuple[Report, Comparison | None]:
    """Cut over; with `verify`, only if both sides are the same.

    Raises:
        ImportConflict: it is on its way back to Redis.
        SourceError: a key cannot be fenced.
    """
    context = importer.context
    importer.begin("cutting over")
    importer.run()
    context.watcher.say("fencing the streams off: whoever still writes to them is refused")
    # A stream that somebody makes while the others are fenced is found by the next look.
    while _fence_all(importer, "stream"):
        pass
    importer.reopen()
    for stream in importer.streams.values():
        stream.drain()
    context.writer.wait()
    time.sleep(GRACE)
    context.watcher.say("fencing hashes and sets off")
    while _fence_all(importer, "hash", "set"):
        pass
    importer.finish_pass(importer.new_pass())
    importer.bring_in_groups()
    report = importer.finished()
    found = compare(importer) if verify else None
    if found is None or found.equal:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        set_phase(context, "cut over", at=now, over=True)
    return report, found


def _fence_all(importer: Import, *kinds: Kind) -> int:
    """Fence all keys of some types; tells how many were not fenced yet."""
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
