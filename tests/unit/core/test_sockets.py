"""How one task waits for the socket of a connection. No server."""

import asyncio
import socket
import time

import psycopg
import pytest

from pgmem.core.sockets import AsyncSocketReader

RESULT_BYTES = 2
"""A result is complete when this many bytes have come."""


class Peer:
    """A connection of libpq, with the end of its socket that the server has."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.socket = self._ours.fileno()
        self.read = 0

    def send(self, size: int) -> None:
        self._theirs.send(b"x" * size)

    def hang_up(self) -> None:
        self._theirs.close()

    def consume_input(self) -> None:
        data = self._ours.recv(1024)
        if not data:
            raise psycopg.OperationalError("lost")
        self.read += len(data)

    def is_busy(self) -> bool:
        return self.read < RESULT_BYTES

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@pytest.fixture
async def peer():
    made = Peer()
    yield made
    made.close()


def soon() -> float:
    return time.monotonic() + 0.05


async def test_an_answer_ends_one_wait_only(peer):
    """Read the socket before the loop reports it again."""
    reader = AsyncSocketReader(peer)
    for _ in range(20):
        peer.send(RESULT_BYTES)
        assert await reader.wait(None)
        peer.read = 0
    assert not await reader.wait(soon())
    reader.forget()


async def test_a_part_of_an_answer_does_not_end_the_wait(peer):
    reader = AsyncSocketReader(peer)
    peer.send(1)
    assert not await reader.wait(soon())
    assert peer.read == 1
    asyncio.get_running_loop().call_soon(peer.send, 1)
    assert await reader.wait(None)
    reader.forget()


async def test_a_lost_connection_ends_the_wait(peer):
    reader = AsyncSocketReader(peer)
    peer.hang_up()
    with pytest.raises(psycopg.OperationalError, match="lost"):
        await reader.wait(None)
    reader.forget()
