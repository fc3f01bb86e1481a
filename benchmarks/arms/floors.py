"""Define the floors: the least that a Python process can do on either server, and a faster client.

A floor handles no error, reconnects never and checks nothing. It shows how much of a call is the
server and the socket, and how much is the library in front of them.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import psycopg
from psycopg.pq import ExecStatus


class HiredisSocket:
    """Send commands over a bare socket, and parse the answers with hiredis.

    Args:
        url: the address of the server.
    """

    def __init__(self, url: str) -> None:
        import hiredis

        self._hiredis = hiredis
        self._reader = hiredis.Reader()
        path, host, port = _address(url)
        if path:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(path)
        else:
            self._socket = socket.create_connection((host, port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self, *commands: Sequence[Any]) -> Any:
        """Send commands in one write, and return the last answer."""
        self._socket.sendall(b"".join(map(self._hiredis.pack_command, map(tuple, commands))))
        answer: Any = None
        for _ in commands:
            while (answer := self._reader.gets()) is False:
                self._reader.feed(self._socket.recv(65_536))
        return answer

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _address(url: str) -> tuple[str, str, int]:
    from redis.connection import parse_url

    found: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types for it
    return found.get("path", ""), found.get("host", "localhost"), found.get("port", 6379)


@contextlib.contextmanager
def hiredis_socket(url: str) -> Iterator[HiredisSocket]:
    """Open a `HiredisSocket` for the block."""
    with contextlib.closing(HiredisSocket(url)) as opened:
        yield opened


@contextlib.contextmanager
def glide(url: str) -> Iterator[Any]:
    """Open a client of valkey-glide, whose core is written in Rust."""
    from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

    path, host, port = _address(url)
    node = NodeAddress(unix_socket_path=path) if path else NodeAddress(host, port)
    client = GlideClient.create(GlideClientConfiguration([node]))
    try:
        yield client
    finally:
        client.close()


class Libpq:
    """Execute prepared statements over libpq, with a poll of the socket for the answer.

    Args:
        connection: a connection in autocommit mode.
        query: the statement, with placeholders `$1`, `$2` …
    """

    def __init__(self, connection: psycopg.Connection[Any], query: bytes) -> None:
        self._pgconn = connection.pgconn
        self._name = b"floor_%d" % id(self)
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        prepared = self._pgconn.prepare(self._name, query)
        if prepared.status != ExecStatus.COMMAND_OK:
            raise RuntimeError(prepared.error_message.decode())

    def __call__(self, *values: bytes | None) -> Any:
        """Execute the statement, and return libpq's result."""
        pgconn = self._pgconn
        pgconn.send_query_prepared(self._name, values)
        pgconn.flush()
        while pgconn.is_busy():
            self._poll.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        pgconn.get_result()
        assert result is not None
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise RuntimeError(result.error_message.decode())
        return result


def numbered(query: bytes, names: Sequence[str]) -> bytes:
    """Replace psycopg's placeholders `%(name)s` by `$1`, `$2` … in the order of the names."""
    for number, name in enumerate(names, 1):
        query = query.replace(f"%({name})s".encode(), f"${number}".encode())
    return query.replace(b"%%", b"%")


def decoded(result: Any, column: int) -> Any:
    """Return the JSON value of a column of the first row; None without a row."""
    return orjson.loads(result.get_value(0, column)) if result.ntuples else None
