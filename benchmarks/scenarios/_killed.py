"""Servers that are killed in the middle of their work and started again on what is left.

Each keeps its data in a folder that the caller names, writes event + state in one acknowledged
call, and tells afterwards what it holds. Nothing here says what should be there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from benchmarks import servers
from benchmarks.scenarios._base import AGENT, TYPE, bare, payload
from pgmem import EmbeddedPostgres, Event, Memory, migrate
from pgmem.errors import PgmemError

READY_TIMEOUT = 30.0

POSTGRES_SETTINGS = servers.POSTGRES_SETTINGS | {"max_wal_size": "256MB", "shared_buffers": "64MB"}

Durability = Literal["strict", "relaxed"]

Write = Callable[[str, int], None]
"""Writes an event with a number, and makes it the state of a key."""


class CutOff(Exception):
    """The server went away during a call: it may have taken effect or not."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a server holds of a round.

    Attributes:
        events: the keys and numbers, in the order of the log.
        states: the number that each key's state holds.
    """

    events: list[tuple[str, int]]
    states: dict[str, int]


class Store(Protocol):
    """A server with its data in a folder of ours."""

    def start(self) -> None:
        """Start it on the data that is there; ready when this returns."""

    def freeze(self) -> list[int]:
        """Stop all of its processes where they are; gives their numbers."""

    def buried(self) -> None:
        """Its processes have been killed, and its disk may be dead: let go of them."""

    def stop(self) -> None:
        """Stop it in order, if it runs."""

    def writers(self, label: str, count: int) -> contextlib.AbstractContextManager[list[Write]]:
        """The means to write for so many threads, each with a connection of its own."""

    def found(self, label: str) -> Found:
        """What it holds of the writers with this label."""


def kill(pids: Sequence[int]) -> None:
    """`kill -9` of all of them."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """No warnings of a logger: that the server is gone is what is wanted here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class PgmemStore:
    """pgmem on a private Postgres.

    Args:
        folder: where its data is kept; others use the same cluster, but not at the same time.
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
        if new:
            migrate.upgrade(self.url)

    @property
    def url(self) -> str:
        """Where it is."""
        assert self._server is not None
        return self._server.url

    def freeze(self) -> list[int]:
        """Stop the postmaster first: it makes no new processes then, and mourns none."""
        postmaster = int((self._folder / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(postmaster, signal.SIGSTOP)
        # Elsewhere than on Linux they end by themselves once they notice that it is gone.
        listed = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        children = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return [postmaster, *children]

    def buried(self) -> None:
        """Leave; on a dead disk it cannot be told whether we were the last, and need not."""
        with contextlib.suppress(OSError):
            self.stop()

    def stop(self) -> None:
        """Stop it."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    @contextlib.contextmanager
    def writers(self, label: str, count: int) -> Iterator[list[Write]]:
        """Threads with one memory: `put` records its event in the same statement."""
        with (
            _quiet("psycopg.pool"),
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
    """A private Redis: XADD and HSET, in MULTI or one after the other.

    Args:
        folder: where its data is kept.
        settings: how it keeps it.
        multi: whether event and state are written in one transaction.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], *, multi: bool) -> None:
        self._folder = folder
        self._settings = settings
        self._multi = multi
        self._process: subprocess.Popen[bytes] | None = None
        self._runtime = Path()

    def start(self) -> None:
        """Start it, and wait until it has loaded its data.

        Raises:
            ServerError: it ended or did not answer.
        """
        self._folder.mkdir(exist_ok=True)
        # Not beside the data: that may be on a disk that is unmounted in the meantime.
        self._runtime = Path(tempfile.mkdtemp(prefix="pgmem-bench-"))
        options = {
            "port": "0",
            "unixsocket": str(self._runtime / "redis.sock"),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": str(self._runtime / "log"),
            "save": "",
            **self._settings,
        }
        self._process = subprocess.Popen(
            [
                servers.redis_binary(),
                *(part for name, value in options.items() for part in (f"--{name}", value)),
            ],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us: we stop it
        )
        try:
            self._await_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        import redis  # noqa: PLC0415  # only the scenarios beside Redis need the extra

        deadline = time.monotonic() + READY_TIMEOUT
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log = self._runtime / "log"
                        tail = log.read_text(errors="replace")[-500:] if log.exists() else ""
                        raise servers.ServerError(
                            f"Redis did not start on {self._folder}: {error}. {tail}"
                        ) from None
                    time.sleep(0.005)
                else:
                    return

    def client(self) -> Any:
        """A client that does not try again by itself: that would write twice."""
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        socket = str(self._runtime / "redis.sock")
        return redis.Redis(unix_socket_path=socket, retry=Retry(NoBackoff(), 0))

    def freeze(self) -> list[int]:
        """Stop the one process that it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        return [self._process.pid]

    def buried(self) -> None:
        """Wait for its end."""
        self.stop()

    def stop(self) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(self._runtime, ignore_errors=True)

    @contextlib.contextmanager
    def writers(self, label: str, count: int) -> Iterator[list[Write]]:
        """Threads with a client each."""
        import redis  # noqa: PLC0415

        def writer(client: Any) -> Write:
            def write(key: str, number: int) -> None:
                value = orjson.dumps({"key": key, **payload(number)})
                event = {"type": TYPE, "payload": value, "agent_id": AGENT}
                try:
                    if self._multi:
                        with client.pipeline(transaction=True) as pipe:
                            pipe.xadd(f"{label}:events", event)
                            pipe.hset(f"{label}:state", key, value)
                            pipe.execute()
                    else:
                        client.xadd(f"{label}:events", event)
                        client.hset(f"{label}:state", key, value)
                except redis.ConnectionError as error:
                    raise CutOff from error

            return write

        with contextlib.ExitStack() as stack:
            yield [writer(stack.enter_context(self.client())) for _ in range(count)]

    def found(self, label: str) -> Found:
        """Read the stream and the hash."""
        with self.client() as client:
            values = [orjson.loads(f[b"payload"]) for _, f in client.xrange(f"{label}:events")]
            states = client.hgetall(f"{label}:state")
            return Found(
                [(value["key"], value["n"]) for value in values],
                {key.decode(): orjson.loads(value)["n"] for key, value in states.items()},
            )
