"""A relay between clients and a server that can drop, cut, refuse and redirect connections.

It counts statements.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Relay:
    """Listens on a port of this machine and forwards to a server's socket.

    Attributes:
        url: the server's URL through the relay.
        statements: the number of statements sent.
    """

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        self.lead_to(url)
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._refusing = False
        self._silent = False
        self.statements = 0
        self._server = socket.create_server((host, 0))
        port = self._server.getsockname()[1]
        self.url = self._url(url, host, port)
        threading.Thread(target=self._accept, daemon=True).start()

    def _url(self, url: str, host: str, port: int) -> str:
        return make_conninfo(url, host=host, port=port)

    def lead_to(self, url: str) -> None:
        """Connect new clients to this server."""
        info = conninfo_to_dict(url)
        self._target = f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}"

    def silence(self, *, new: bool = False) -> None:
        """Forward nothing and close nothing, as if a cable was pulled.

        Args:
            new: also forward nothing of later connections.
        """
        with self._lock:
            self._silent = new
            for pair in self._pairs:
                pair.open.clear()

    def heal(self) -> None:
        """Forward new connections; those that are silent stay silent."""
        with self._lock:
            self._silent = self._refusing = False

    def speak(self) -> None:
        """Forward what was held back."""
        self.heal()
        with self._lock:
            for pair in self._pairs:
                pair.open.set()

    def cut(self, *, refuse: bool = False) -> None:
        """Close every connection; with `refuse`, also each later one."""
        with self._lock:
            self._refusing = refuse
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    def close(self) -> None:
        # A close alone does not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut(refuse=True)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _welcome(self, client: socket.socket) -> socket.socket:
        """Prepare the socket of a new client; a subclass may answer first."""
        return client

    def _count(self, statements: int) -> None:
        with self._lock:
            self.statements += statements

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                client = self._welcome(client)
                server.connect(self._target)
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                pair = _Pair(client, server, self._count)
                if self._silent:
                    pair.open.clear()
                self._pairs.append(pair)
            pair.start()


class _Statements:
    """Counts the messages of a client that make the server run a statement."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def count(self, chunk: bytes) -> int:
        found, data = 0, self._rest + chunk
        # A message is a type byte and a length; the first one of a connection has no type.
        while len(data) >= (head := 5 if self._started else 4):
            size = head - 4 + int.from_bytes(data[head - 4 : head], "big")
            if len(data) < size:
                break
            # Query and Execute. Another first message follows a request for encryption.
            found += self._started and data[:1] in b"QE"
            self._started |= data[4:8] != b"\x04\xd2\x16\x2f"
            data = data[size:]
        self._rest = data
        return found


class _Pair:
    def __init__(self, client: socket.socket, server: socket.socket, count) -> None:
        self._ends = (client, server)
        self._count = count
        self._closed = False
        self.open = threading.Event()
        self.open.set()

    def start(self) -> None:
        client, server = self._ends
        for ends in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        statements = _Statements()
        try:
            while chunk := source.recv(65536):
                if source is self._ends[0]:
                    self._count(statements.count(chunk))
                self.open.wait()
                target.sendall(chunk)
        except OSError:
            pass
        # A pulled cable does not carry the end of a connection either.
        self.open.wait()
        self.close()

    def close(self) -> None:
        self._closed = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.open.set()
