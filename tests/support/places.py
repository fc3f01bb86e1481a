"""One URL, and the servers that are reached by it one after the other."""

from __future__ import annotations

from pgmem import Event, Memory
from tests.support.clusters import caught_up, kill, reopened
from tests.support.relay import Relay

SETTINGS = {"fsync": "off"}  # The machine itself does not crash.


class Place:
    """One URL, and the servers that are reached by it.

    Attributes:
        url: where clients connect.
        server: what they reach.
    """

    def __init__(self, folder, server) -> None:
        self.folder = folder
        self.server = server
        self._relay = Relay(server.url)
        self.url = self._relay.url
        self._servers = [server]

    def restart(self, *, crash: bool) -> None:
        if crash:
            self.crash()
        else:
            self.server.stop()
        self.start()

    def crash(self) -> None:
        kill(self.server)

    def start(self) -> None:
        self.lead_to(reopened(self.folder / "first", settings=SETTINGS))

    def lead_to(self, server) -> None:
        """Connect clients to another server."""
        self._servers.append(server)
        self._relay.lead_to(server.url)
        self._relay.cut()
        self.server = server

    def close(self) -> None:
        self._relay.close()
        for server in self._servers:
            server.stop()


def lose_the_tail(place, stream, standby) -> None:
    """Cut the standby off, write on, then stop the server."""
    caught_up(place.server.url, standby.url)
    stream.cut(refuse=True)
    with Memory(place.url) as memory:
        for n in range(10):
            memory.events.append("s", Event(type="lost", payload=n))
