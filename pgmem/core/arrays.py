"""Send the columns of a batch as PostgreSQL's binary arrays.

psycopg's own conversion of a list asks for the type of each element and takes four times as long.
Each type has a class, because psycopg chooses by the class how to send a parameter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar

from psycopg import abc, adapt, postgres, pq

_HEADER = struct.Struct("!iiIii")  # dimensions, whether there are nulls, type, length, first index
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)


Cell = str | bytes | None


class Column:
    """One column of a batch: a text for each row, in UTF-8 if it is bytes, or None for NULL."""

    __slots__ = ("cells",)

    element: ClassVar[str]

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells


class NameColumn(Column):
    """Texts of which most are equal: `text[]`."""

    __slots__ = ()
    element = "text"


class JsonColumn(Column):
    """JSON texts that mostly differ: `json[]`."""

    __slots__ = ()
    element = "json"


def _packed(cell: Cell, encoding: str) -> bytes:
    if cell is None:
        return _NULL
    if isinstance(cell, bytes):
        data = cell if encoding == "utf-8" else cell.decode().encode(encoding)
    else:
        data = cell.encode(encoding)
    return _LENGTH.pack(len(data)) + data


def _few(cells: Sequence[Cell], encoding: str) -> list[bytes]:
    known = {cell: _packed(cell, encoding) for cell in set(cells)}
    return list(map(known.__getitem__, cells))


def _many(cells: Sequence[Cell], encoding: str) -> list[bytes]:
    if encoding == "utf-8" and set(map(type, cells)) == _TEXTS:
        pack = _LENGTH.pack
        return [pack(len(data)) + data for data in map(str.encode, cells)]  # type: ignore[arg-type]  # they are str
    return [_packed(cell, encoding) for cell in cells]


_TEXTS = {str}


class _ColumnDumper(adapt.Dumper):
    """Send a column."""

    format = pq.Format.BINARY
    column: ClassVar[type[Column]]

    def __init__(self, cls: type, context: abc.AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        info = postgres.types[self.column.element]
        self.oid, self._element = info.array_oid, info.oid
        self._pack = _few if self.column is NameColumn else _many
        # The caller's own connection may have any encoding.
        self._encoding = self.connection.info.encoding if self.connection else "utf-8"

    def dump(self, obj: Column) -> bytes:
        cells = obj.cells
        header = _HEADER.pack(1, None in cells, self._element, len(cells), 1)
        return b"".join([header, *self._pack(cells, self._encoding)])


class _NameDumper(_ColumnDumper):
    column = NameColumn


class _JsonDumper(_ColumnDumper):
    column = JsonColumn


def register(adapters: adapt.AdaptersMap) -> None:
    """Teach adapters to send columns."""
    adapters.register_dumper(NameColumn, _NameDumper)
    adapters.register_dumper(JsonColumn, _JsonDumper)
