"""Cut over (`--cut-over`): keep the old writers out, and import the rest.

1. Enter the phase "cutting over". Import everything; writers still write. If a key cannot be
   fenced, or two keys have one name in pgmem, leave the phase: nothing is fenced.
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
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pgmem.redis.errors import ImportConflict, SourceError
from pgmem.redis.importing.collisions import told
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.fences import fence, fenced_name, obstacles
from pgmem.redis.importing.keys import pages
from pgmem.redis.importing.rules import Kind
from pgmem.redis.importing.run import PHASE_PART, Import, Report, phase_of, set_phase
from pgmem.redis.importing.source import KeyFault
from pgmem.redis.importing.verify import Comparison, compare

GRACE = 0.3
"""Seconds from the fence of the streams to that of the other keys."""
_FENCED: tuple[Kind, ...] = ("stream", "hash", "set")
SHOWN = 5
"""Obstacles that an error names."""


def cut_over(importer: Import, *, verify: bool = False) -> tuple[Report, Comparison | None]:
    """Cut over. With `verify`, do so only if both sides are equal.

    Raises:
        ImportConflict: the import is going back to Redis, or two keys have one name in pgmem.
        SourceError: a key cannot be fenced, or the server does not let this user do it.
    """
    context = importer.context
    before = phase_of(context.imports.get(context.name, PHASE_PART))
    importer.begin("cutting over", purpose="cut over")
    importer.run()
    try:
        _check(importer)
    except (ImportConflict, SourceError):
        if before in (None, "importing"):
            set_phase(context, "importing")
        raise
    # The way back leaves out the same keys.
    set_phase(context, "cutting over", excepted=context.rules.excepted)
    context.watcher.say("fencing the streams, late writes are refused")
    faults: dict[bytes, str] = {}
    # A stream that is created while the others are fenced is found by the next round.
    while _fence_all(importer, faults, "stream"):
        pass
    importer.reopen()
    for stream in list(importer.streams.values()):
        importer.drain(stream)
    context.writer.wait()
    time.sleep(GRACE)
    context.watcher.say("fencing hashes and sets")
    while _fence_all(importer, faults, "hash", "set"):
        pass
    importer.finish_pass(importer.new_pass())
    importer.import_groups()
    report = importer.finished()
    if faults:
        raise SourceError(
            f"{len(faults)} keys could not be fenced; all others are. {_some(faults.values())}. "
            f"Run this again, with --except for keys to leave out, or go back with --reverse"
        )
    found = compare(importer) if verify else None
    if found is None or found.equal:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        set_phase(context, "cut over", at=now, over=True)
    return report, found


def _check(importer: Import) -> None:
    """Check that the cut-over can come to its end, before anything is fenced.

    Raises:
        ImportConflict: two places of Redis have one name in pgmem.
        SourceError: a key cannot be fenced.
    """
    if importer.report.collisions:
        raise ImportConflict(
            f"nothing was fenced, because names collide: {told(importer.report.collisions)}"
        )
    context = importer.context
    found = obstacles(context.source, list(_absent(context, _FENCED)))
    for keys in pages(context.source, context.rules):
        found += obstacles(
            context.source,
            [
                key.physical
                for key in keys
                if key.rule is not None
                and key.kind in _FENCED
                and key.physical != fenced_name(key.name)
            ],
        )
    if found:
        raise SourceError(
            f"nothing was fenced, because {len(found)} keys cannot be. {_some(found)}"
        )


def _some(found: Iterable[str]) -> str:
    return "; ".join(list(found)[:SHOWN])


def _fence_all(importer: Import, faults: dict[bytes, str], *kinds: Kind) -> int:
    """Fence all keys of some types. Return the number of those that were not fenced yet.

    Args:
        importer: the import.
        faults: gets the keys that cannot be fenced, with the reasons.
        kinds: the types.
    """
    context = importer.context
    words = (
        f"{datetime.now(UTC).isoformat(timespec='seconds')}, by the import {context.name!r}; the "
        f"data is in the key of this name with :before-pgmem behind it"
    )
    fenced = 0
    wanted = _absent(context, kinds)
    for found in pages(context.source, context.rules):
        wanted |= {
            key.physical: key.rule.kind
            for key in found
            if key.rule is not None and key.kind in kinds and key.physical != fenced_name(key.name)
        }
        for name, kind in wanted.items():
            if name in faults:
                continue
            try:
                fence(context.source, name, kind, words)
                fenced += 1
            except KeyFault as error:
                faults[name] = str(error)
        wanted = {}
    return fenced


def _absent(context: Context, kinds: Sequence[Kind]) -> dict[bytes, str]:
    """Return the keys of some types that rules name and that do not exist, with their types."""
    return {
        name: next(kind for kind in kinds if kind in allowed)
        for name, allowed in context.rules.named.items()
        if allowed & set(kinds)
        and not context.rules.is_excepted(name)
        and not context.source.call("EXISTS", name)
    }
