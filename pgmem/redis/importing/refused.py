"""The file that lists every item that is left out of an import.

It has one JSON object a line, with the raw bytes in base64, so that items can be repaired and
imported by hand. A line is flushed to the disk before the step that leaves its item out commits.
The file holds data, so only its owner may read it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgmem.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Item:
    """An item of Redis that may be refused.

    Attributes:
        kind: "entry" of a stream, "field", "hash", "member", "string", "key", "group", "pending",
            "gap", or "end" if only the end is left out.
        key: the key.
        name: the id, field or member.
        raw: its alternating names and values, or its value.
    """

    kind: str
    key: bytes
    name: bytes = b""
    raw: Sequence[bytes] = ()

    @property
    def place(self) -> str:
        """The item as text for a message."""
        return place_words(
            self.kind,
            self.key.decode(errors="backslashreplace"),
            self.name.decode(errors="backslashreplace"),
        )


_PLACES = {
    "field": "the field {name!r} of the hash {key!r}",
    "member": "the member {name!r} of the set {key!r}",
    "group": "the group {name!r} of the stream {key!r}",
    "hash": "the hash {key!r}",
    "string": "the string {key!r}",
    "stream": "the stream {key!r}",
}


def place_words(kind: str, key: str, name: str) -> str:
    """Return a place of Redis as text for a message."""
    return _PLACES.get(kind, "the key {key!r}").format(key=key[:100], name=name[:100])


class RefusedFile:
    """List each refused item once, over several runs too.

    Args:
        path: the file. It is created with the first line.
        source: the name of the import.

    Raises:
        InvalidInput: the file cannot be read or written.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self._source = source
        self._known: set[bytes] = set()
        self._broken = False
        try:
            if path.exists():
                self._load()
            elif not os.access(path.absolute().parent, os.W_OK):
                raise PermissionError(f"{path.absolute().parent} cannot be written to")
        except OSError as error:
            raise InvalidInput(f"cannot use the file of refused items: {error}") from None

    def _load(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        # A killed process may have left half a line.
        self._broken = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                self._known.add(_identity(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, items: Sequence[tuple[Item, str]]) -> int:
        """List items with their reasons. Return the number of new lines."""
        lines = []
        for item, reason in items:
            line = self._line(item, reason)
            identity = _identity(line)
            if identity not in self._known:
                self._known.add(identity)
                lines.append(json.dumps(line, ensure_ascii=False))
        if lines:
            self._write("".join(f"{line}\n" for line in lines))
        return len(lines)

    def _line(self, item: Item, reason: str) -> dict[str, Any]:
        return {
            "import": self._source,
            "kind": item.kind,
            "key": item.key.decode(errors="backslashreplace"),
            "name": item.name.decode(errors="backslashreplace"),
            "reason": reason,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "key_base64": _base64(item.key),
            "name_base64": _base64(item.name),
            "raw_base64": [_base64(part) for part in item.raw],
        }

    def _write(self, text: str) -> None:
        # Another account that can write to the folder must not choose the file by a link.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            with open(os.open(self.path, flags, 0o600), "ab") as file:
                file.write((("\n" if self._broken else "") + text).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InvalidInput(
                f"cannot use the file of refused items {self.path}: {error}"
            ) from None
        self._broken = False


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _identity(line: dict[str, Any]) -> bytes:
    names = ("import", "kind", "key_base64", "name_base64", "raw_base64", "reason")
    text = json.dumps([line[name] for name in names])
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
