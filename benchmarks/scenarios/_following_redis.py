"""The readers of the scenarios of following that follow a Redis: done right, and as published.

Both are processes of a crew. What they are told, and what they give, is as in `_following`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import orjson

from benchmarks.arms import published, right
from benchmarks.scenarios._following import DRAIN, PATIENCE, Received, Tray


class RedisReader:
    """The same blocked in XREAD.

    Args:
        number, url: as a `WorkFactory` has them.
        key: of the stream.
    """

    def __init__(self, number: int, url: str, key: str) -> None:
        self._client = right.connect(url)
        self._key = key
        self._last: Any = "0"

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        end = time.monotonic() + PATIENCE
        while not tray.complete and time.monotonic() < end:
            self._read(tray, 1.0)
        self._read(tray, DRAIN)
        return tray.received(_entry_id)

    def _read(self, tray: Tray, timeout: float) -> None:
        block = round(timeout * 1_000)
        for _, entries in self._client.xread({self._key: self._last}, count=100, block=block):
            for place, fields in entries:
                tray.put(place, orjson.loads(fields[b"payload"]))
                self._last = place

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class PublishedReader:
    """The same with the published `read_events`, which must not wait for ever here.

    Args:
        number, url: as a `WorkFactory` has them.
        prefix: of the keys.
    """

    def __init__(self, number: int, url: str, prefix: str) -> None:
        self._client = published.connect(url)
        self._memory = published.Published(self._client, prefix=prefix, block=round(DRAIN * 1_000))
        self._last: Any = "0"

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        end = time.monotonic() + PATIENCE
        while not tray.complete and time.monotonic() < end:
            self._read(tray)
        self._read(tray)
        return tray.received(_entry_id)

    def _read(self, tray: Tray) -> None:
        for _, entries in self._memory.read_events(self._last):
            for place, fields in entries:
                tray.put(place, json.loads(fields[b"payload"]))
                self._last = place

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _entry_id(place: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = place.partition(b"-")
    return int(milliseconds), int(sequence)
