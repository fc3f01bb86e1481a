"""Run servers that are killed during their work and started again on their data.

Each keeps its data in a folder that the caller names, writes event and state in one acknowledged
call, and reports afterwards what it holds. The scenarios know what should be there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from benchmarks import redis_server, servers
from benchmarks.arms import right
from benchmarks.harness import Tier
from benchmarks.machine import pin_server
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import AGENT, TYPE, bare, payload
from pgmem import EmbeddedPostgres, Event, Memory, migrate
from pgmem.errors import PgmemError

READY_TIMEOUT = 30.0

POSTGRES_SETTINGS = servers.POSTGRES_SETTINGS | {"max_wal_size": "256MB", "shared_buffers": "64MB"}

Durability = Literal["strict", "relaxed"]

Write = Callable[[str, int], None]
"""Write an event with a number, and make it the state of a key."""


class CutOff(Exception):
    """Raised if the server ended during a call, which may have taken effect or not."""


@dataclass(frozen=True, slots=True)
class Found:
    """Hold what a server has of a round.

    Attributes:
        events: the keys and numbers, in the order of the log.
        states: the number that each key's state holds.
    """

    events: list[tuple[str, int]]
    states: dict[str, int]


class Store(Protocol):
    """Define a server that keeps its data in a folder of the caller's."""

    def start(self) -> None:
        """Start it on the data that is there; it is ready on return."""

    def freeze(self) -> list[int]:
        """Stop all of its processes with SIGSTOP, and return their ids."""

    def abandon(self) -> None:
        """Release what belongs to its killed processes; its disk may be dead."""

    def stop(self) -> None:
        """Stop it in order, if it runs."""

    def writers(self, label: str, count: int) -> contextlib.AbstractContextManager[list[Write]]:
        """Open one connection for each thread that writes."""

    def found(self, label: str) -> Found:
        """Return what it holds of the writers with this label."""


def kill(pids: Sequence[int]) -> None:
    """Send SIGKILL to all of the processes."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Suppress the warnings of a logger: here the server is meant to be gone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class PgmemStore:
    """Run pgmem on a private Postgres.

    Args:
        folder: where its data is kept; other stores use the same cluster, not at the same time.
        durability: of the memory.
    """

    def __init__(self, folder: Path, durability: Durability) -> None:
        self._folder = folder / "postgres"
        self._durability = durability
        self._server: EmbeddedPostgres | None = None

    def start(self) -> None:
        """Start it; a new cluster gets pgmem's tables."""
        new = not self._folder.exists()
        self._server = EmbeddedPostgres(
            self._folder, POSTGRES_SETTINGS, start_timeout=READY_TIMEOUT
        ).start()
        pin_server(servers.Postgres(self.url, self._server.data_dir).processes())
        if new:
            migrate.upgrade(self.url)

    @property
    def url(self) -> str:
        """The address of the server."""
        assert self._server is not None
        return self._server.url

    def freeze(self) -> list[int]:
        """Stop the postmaster first: it then starts no processes and handles no crashes."""
        assert self._server is not None
        server = servers.Postgres(self.url, self._server.data_dir)
        os.kill(server.processes()[0], signal.SIGSTOP)
        # On other systems than Linux its children end by themselves once they notice its end.
        postmaster, *children = server.processes()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return [postmaster, *children]

    def abandon(self) -> None:
        """Stop it; errors of a dead disk, which cannot show if other users exist, do not matter."""
        with contextlib.suppress(OSError):
            self.stop()

    def stop(self) -> None:
        """Stop it."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    @contextlib.contextmanager
    def writers(self, label: str, count: int) -> Iterator[list[Write]]:
        """Give threads one memory; `put` records its event in the same statement."""
        with (
            _quiet("pgmem"),
            Memory(self.url, durability=self._durability, pool=count, timeout=1) as memory,
        ):

            def write(key: str, number: int) -> None:
                value = {"key": key, **payload(number)}
                event = Event(type=TYPE, payload=value, agent_id=AGENT)
                try:
                    memory.state.put(key, value, event=event, stream=label)
                except PgmemError as error:
                    raise CutOff from error

            yield [write] * count

    def found(self, label: str) -> Found:
        """Read the tables."""
        with bare(self.url) as connection:
            events: Any = connection.execute(
                "SELECT payload->>'key', (payload->>'n')::bigint FROM pgmem.events"
                " WHERE stream = %s ORDER BY position",
                (label,),
            )
            states: Any = connection.execute(
                "SELECT key, (value->>'n')::bigint FROM pgmem.state WHERE starts_with(key, %s)",
                (f"{label}:",),
            )
            return Found(list(events), dict(states))


class RedisStore:
    """Run a private Redis: XADD and HSET, in MULTI or one after the other.

    Args:
        folder: where its data is kept.
        tier: how it keeps it.
        multi: write event and state in one transaction.
    """

    def __init__(self, folder: Path, tier: Tier, *, multi: bool) -> None:
        self._folder = folder / f"redis-{tier}-{'multi' if multi else 'apart'}"
        self._tier: Tier = tier
        self._multi = multi
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it has loaded its data.

        Raises:
            ServerError: it ended or did not answer.
        """
        self._folder.mkdir(exist_ok=True)
        self._process = redis_server.start(redis_server.redis_binary(), self._folder, self._tier)
        try:
            found = Redis(self._url, self._tier, self._process.pid)
            redis_server.await_redis(found, self._process, self._folder / "log")
            pin_server([self._process.pid])
        except BaseException:  # An interrupt must not leave the process behind.
            self.stop()
            raise

    @property
    def _url(self) -> str:
        return f"unix://{self._folder}/redis.sock"

    def client(self) -> Any:
        """Create a client without retries, which would write twice."""
        return right.connect(self._url)

    def freeze(self) -> list[int]:
        """Stop its only process with SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        return [self._process.pid]

    def abandon(self) -> None:
        """Wait for its end."""
        self.stop()

    def stop(self) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is not None:
            redis_server.stop(process)

    @contextlib.contextmanager
    def writers(self, label: str, count: int) -> Iterator[list[Write]]:
        """Give each thread a client."""
        import redis

        def writer(client: Any) -> Write:
            send = self._together(client, label) if self._multi else self._apart(client, label)

            def write(key: str, number: int) -> None:
                try:
                    send(key, {"key": key, **payload(number)})
                except redis.ConnectionError as error:
                    raise CutOff from error

            return write

        with contextlib.ExitStack() as stack:
            yield [writer(stack.enter_context(self.client())) for _ in range(count)]

    def _together(self, client: Any, label: str) -> Callable[[str, Any], object]:
        memory = right.Right(client, prefix=f"{label}:")
        return lambda key, value: memory.write_event(key, TYPE, value)

    def _apart(self, client: Any, label: str) -> Callable[[str, Any], object]:
        def send(key: str, value: Any) -> None:
            # As published, but without MAXLEN, whose losses would hide those of the crash.
            text = orjson.dumps(value)
            client.xadd(self._events(label), {"payload": text, "event_type": TYPE, "agent_id": key})
            client.hset(self._latest(label), f"{key}:{TYPE}", text)

        return send

    def _events(self, label: str) -> str:
        return f"{label}:{right.EVENTS}"

    def _latest(self, label: str) -> str:
        return f"{label}:latest"

    def found(self, label: str) -> Found:
        """Read the stream and the hash."""
        with self.client() as client:
            texts = [fields[b"payload"] for _, fields in client.xrange(self._events(label))]
            events = [orjson.loads(text) for text in texts]
            states = [orjson.loads(text) for text in client.hvals(self._latest(label))]
        return Found(
            [(value["key"], value["n"]) for value in events],
            {value["key"]: value["n"] for value in states},
        )
