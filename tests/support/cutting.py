"""A relay that drops the server's answer to a chosen message and counts round trips."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress

import psycopg


class CuttingRelay:
    """A relay in front of the server's socket that can cut a connection after a chosen message.

    The relay calls `cut_after` with each chunk from the client. If that returns True, the relay
    delivers the chunk, drops the server's answer and closes the connection. Then the client
    cannot know the outcome of its statement.

    Attributes:
        url: the server's URL through the relay.
        cuts: the number of connections cut.
        sent: the number of chunks from clients; round trips, if a message fits in one chunk.
    """

    def __init__(self, url: str, folder) -> None:
        info = psycopg.conninfo.conninfo_to_dict(url)
        self._target = f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen()
        self.url = psycopg.conninfo.make_conninfo(url, host=str(folder), port=5432)
        self.cut_after = lambda chunk: False
        self.cuts = self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_once_after(self, text: bytes) -> None:
        """Cut the connection that next carries `text`, once."""

        def matches(chunk: bytes) -> bool:
            if text in chunk:
                self.cut_after = lambda chunk: False
                return True
            return False

        self.cut_after = matches

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        # Either side may end the connection, also while a chunk for it is under way.
        with client, server, suppress(OSError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                for source in readable:
                    chunk = source.recv(65536)
                    if not chunk:
                        return
                    if source is server:
                        client.sendall(chunk)
                        continue
                    self.sent += 1
                    cut = self.cut_after(chunk)
                    server.sendall(chunk)
                    if cut:
                        # A long message comes in several chunks.
                        while server not in select.select([client, server], [], [])[0]:
                            server.sendall(client.recv(65536))
                        server.recv(65536)  # Answered: the statement has taken effect.
                        self.cuts += 1
                        return

    def close(self) -> None:
        self._listener.close()


class ByteRelay(CuttingRelay):
    """A relay that cuts a connection after a number of bytes in one direction.

    Attributes:
        transferred: the bytes so far, by direction: "requests" or "answers".
    """

    def __init__(self, url: str, folder) -> None:
        self.transferred = {"requests": 0, "answers": 0}
        self._cut_at: dict[str, int] = {}
        super().__init__(url, folder)

    def cut_once_at(self, direction: str, count: int) -> None:
        """Forward `count` more bytes in a direction, then cut the connection, once."""
        self._cut_at = {direction: self.transferred[direction] + count}

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                for source in readable:
                    direction = "requests" if source is client else "answers"
                    chunk = source.recv(65536)
                    if not chunk:
                        return
                    allowed = self._cut_at.get(direction, 1 << 60) - self.transferred[direction]
                    self.transferred[direction] += min(len(chunk), allowed)
                    (server if source is client else client).sendall(chunk[:allowed])
                    if len(chunk) > allowed:
                        self._cut_at = {}
                        self.cuts += 1
                        return
