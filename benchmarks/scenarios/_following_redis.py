"""Define the readers that follow a Redis: done right, and as published.

Both are processes of a crew. Their orders and answers are those of `_following`.
"""

from __future__ import annotations

import abc
import json
import time
from typing import Any

import orjson

from benchmarks.arms import published, right
from benchmarks.scenarios._following import DRAIN, ROUND_TIMEOUT, Received, Tray


class _StreamReader(abc.ABC):
    """Read from the current place until the round is over, and once more.

    Args:
        client: closed with it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._last: Any = "0"

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        end = time.monotonic() + ROUND_TIMEOUT
        while not tray.complete and time.monotonic() < end:
            self._read(tray, 1.0)
        self._read(tray, DRAIN)
        return tray.received(_entry_id)

    @abc.abstractmethod
    def _read(self, tray: Tray, timeout: float) -> None:
        """Record the entries after the last one; wait for `timeout` seconds if there are none."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class RedisReader(_StreamReader):
    """Read with a blocking XREAD.

    Args:
        number, url: as a `WorkFactory` has them.
        key: of the stream.
    """

    def __init__(self, number: int, url: str, key: str) -> None:
        super().__init__(right.connect(url))
        self._key = key

    def _read(self, tray: Tray, timeout: float) -> None:
        block = round(timeout * 1_000)
        for _, entries in self._client.xread({self._key: self._last}, count=100, block=block):
            for place, fields in entries:
                tray.put(place, orjson.loads(fields[b"payload"]))
                self._last = place


class PublishedReader(_StreamReader):
    """Read with the published `read_events`, limited in time.

    Args:
        number, url: as a `WorkFactory` has them.
        prefix: of the keys.
    """

    def __init__(self, number: int, url: str, prefix: str) -> None:
        super().__init__(published.connect(url))
        self._memory = published.Published(self._client, prefix=prefix, block=round(DRAIN * 1_000))

    def _read(self, tray: Tray, timeout: float) -> None:  # the article's method has none
        for _, entries in self._memory.read_events(self._last):
            for place, fields in entries:
                tray.put(place, json.loads(fields[b"payload"]))
                self._last = place


def _entry_id(place: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = place.partition(b"-")
    return int(milliseconds), int(sequence)
