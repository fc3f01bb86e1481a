"""Follow a Redis: continue the import while the old writers write.

Streams are followed by XREAD, so new entries are in the log some milliseconds later. Hashes, sets
and strings have no log. Passes over them find what has changed, step by step between the pages of
the streams. After each pass the groups of the streams are imported. Following ends when it is told
to, or when another process cuts over::

    import ──► wait for entries ──► import them ──► a step of a pass ─┐
                     ▲                                                │
                     └────────────────────────────────────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from pgmem.redis.errors import ImportConflict, SourceError, SourceUnavailable
from pgmem.redis.importing.passes import Pass
from pgmem.redis.importing.positions import number
from pgmem.redis.importing.run import PHASE_PART, Import, phase_of
from pgmem.redis.importing.source import Refused
from pgmem.redis.importing.streams import StreamImport

BLOCK = 0.5
"""Seconds that one poll waits for entries. It also bounds the delay of a stop."""
BETWEEN_PASSES = 2.0
"""Minimum time in seconds from the end of a pass to the next one."""
PASS_SHARE = 5.0
"""The pause after a pass, as a multiple of its duration."""
SLACK = 0.05
"""The share of its remaining time by which an expiry may differ. The cut-over uses 0."""
AT_A_TIME = 20_000
"""Maximum number of entries of one stream before the next stream is read."""


class Follow:
    """Follow a Redis until `stop` returns True.

    Args:
        importer: the import, which has run once.
        stop: called between two polls.
    """

    def __init__(self, importer: Import, stop: Callable[[], bool] = lambda: False) -> None:
        self._importer = importer
        self._context = importer.context
        self._stop = stop
        self._steps: Iterator[int] | None = None
        self._pass: Pass | None = None
        self._begun = 0.0
        self._next_pass = 0.0
        self._next_check = 0.0

    def run(self) -> bool:
        """Follow. Return True if another process has cut over.

        Raises:
            ImportConflict: another process continues this import.
            SourceError: a key that cannot be followed.
        """
        while not self._stop():
            try:
                if self._is_over():
                    return True
                self._poll()
            except SourceUnavailable:
                raise
            except (ImportConflict, SourceError):
                # A process that cuts over opens the parts, and fences the keys.
                self._next_check = 0.0
                if self._is_over():
                    return True
                if not self._leave_out_others():
                    raise
        return False

    def _poll(self) -> None:
        for stream in self._moved():
            self._importer.drain(stream, most=AT_A_TIME)
        self._go_on_with_pass()
        self._context.writer.wait()
        self._tell_lag()

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + 1.0
        imports = self._context.imports
        return phase_of(imports.get(self._context.name, PHASE_PART)) != "importing"

    def _moved(self) -> list[StreamImport]:
        """Return the streams that have new entries. Wait for some if no pass is running."""
        streams = {stream.physical: stream for stream in self._importer.streams.values()}
        wait = 0.0
        if self._steps is None:
            wait = max(0.0, min(BLOCK, self._next_pass - time.monotonic()))
        if not streams:
            time.sleep(wait)
            return []
        command: list[object] = ["XREAD", "COUNT", 1]
        if wait >= 0.001:
            command += ["BLOCK", int(wait * 1_000)]
        ids = [stream.read_to or "0-0" for stream in streams.values()]
        found = self._context.source.call(*command, "STREAMS", *streams, *ids)
        return [streams[key] for key, _ in found or ()]

    def _leave_out_others(self) -> int:
        """Leave out keys that are no longer streams. Return their number."""
        streams = list(self._importer.streams.values())
        kinds = self._context.source.many([("TYPE", stream.physical) for stream in streams])
        others = [
            (stream, kind)
            for stream, kind in zip(streams, kinds, strict=True)
            if isinstance(kind, Refused) or kind not in (b"stream", b"none")
        ]
        for stream, kind in others:
            is_now = kind.reason if isinstance(kind, Refused) else f"it is a {kind.decode()} now"
            self._importer.leave_out(
                stream.key,
                f"the stream {stream.name!r} of Redis cannot be read: {is_now}. The entries "
                f"imported so far are kept",
            )
        return len(others)

    def _go_on_with_pass(self) -> None:
        now = time.monotonic()
        if self._steps is None:
            if now < self._next_pass:
                return
            self._begun = now
            self._pass = self._importer.new_pass(slack=SLACK)
            self._steps = self._pass.steps()
        if next(self._steps, None) is None:
            assert self._pass is not None  # noqa: S101  # it has steps
            self._context.writer.wait()
            self._importer.end_pass(self._pass)
            self._importer.import_groups()
            self._steps = None
            took = time.monotonic() - self._begun
            self._next_pass = time.monotonic() + max(BETWEEN_PASSES, PASS_SHARE * took)

    def _tell_lag(self) -> None:
        behind: int | None = 0
        seconds = 0.0
        for stream in self._importer.streams.values():
            if stream.behind is None or behind is None:
                behind = None
            else:
                behind += stream.behind
            if stream.info is not None and stream.read_to:
                span = number(stream.info.last)[0] - number(stream.read_to)[0]
                seconds = max(seconds, span / 1_000)
        self._context.watcher.lag(behind, seconds)
