"""Helpers for the tests of the import."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager

from pgmem.redis.importing.cutover import cut_over
from pgmem.redis.importing.reverse import reverse
from pgmem.redis.importing.rules import parse_rules
from pgmem.redis.importing.session import Silent, open_import
from pgmem.redis.importing.verify import compare


class Told(Silent):
    """Keep the messages of an import."""

    def __init__(self):
        self.words = []
        self.lags = []

    def say(self, words):
        self.words.append(words)

    def lag(self, entries, seconds):
        self.lags.append((entries, seconds))


class Importing:
    """Run imports from one Redis into one memory.

    Attributes:
        told: keeps the messages.
        file: the file of refused items.
    """

    def __init__(self, url, memory, folder):
        self.url = url
        self.memory = memory
        self.file = folder / "refused.jsonl"
        self.told = Told()

    @contextmanager
    def opened(
        self, *, name="test", dry_run=False, timeout=30.0, url=None, strings="done", **rules
    ):
        """Open an `Import` that has not begun. Strings with an expiry are finished work."""
        if {"streams", "hashes", "dedupe"} & {*rules}:
            strings = None
        with open_import(
            self.memory,
            url or self.url,
            parse_rules(strings=strings, **rules),
            refused=self.file,
            name=name,
            watcher=self.told,
            dry_run=dry_run,
            timeout=timeout,
        ) as importer:
            yield importer

    def run(self, **options):
        """Import everything. Return the report."""
        with self.opened(**options) as importer:
            importer.begin()
            return importer.run()

    def compared(self, **options):
        """Import everything and compare both sides. Return the comparison."""
        with self.opened(**options) as importer:
            importer.begin()
            importer.run()
            return compare(importer)

    def cut_over(self, *, verify=False, **options):
        """Cut over. Return the report and the comparison."""
        with self.opened(**options) as importer:
            return cut_over(importer, verify=verify)

    def reverse(self, **options):
        """Go back. Return the numbers of items that were written back."""
        with self.opened(**options) as importer:
            return reverse(importer)

    def refused(self):
        """Return kind, key, name and reason of each line of the file."""
        if not self.file.exists():
            return []
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [(line["kind"], line["key"], line["name"], line["reason"]) for line in lines]

    def raw(self):
        """Return the raw bytes of each line of the file."""
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [[base64.b64decode(part) for part in line["raw_base64"]] for line in lines]


def published(n, **fields):
    """Return the fields of an entry as the published code writes them."""
    return {
        "agent_id": "validator",
        "event_type": "payment.validated",
        "payload": json.dumps({"n": n}),
        "timestamp": "2026-11-22T10:00:00",
        **fields,
    }


def fill(client, count, stream="agent:events", first=1):
    """Add published entries with ascending ids from 1-0."""
    with client.pipeline(transaction=False) as pipe:
        for n in range(first, first + count):
            pipe.xadd(stream, published(n), id=f"{n}-0")
        pipe.execute()


def numbers(memory, stream="agent:events"):
    """Return the numbers of the events of a stream, in their order."""
    found, after = [], 0
    while events := memory.events.read(stream, after=after, limit=10_000):
        found += [event.payload["n"] for event in events]
        after = events[-1].position
    return found
