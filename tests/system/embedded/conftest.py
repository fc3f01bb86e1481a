"""Processes that use an embedded server, and helpers to inspect and kill processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

CHECKOUT = Path(__file__).parents[3]

# The program makes the package itself, because pgmem's __init__ imports packages that an ordinary
# user may not have.
USER_PROGRAM = """
import json, sys, types
sys.modules["pgmem"] = types.ModuleType("pgmem")
sys.modules["pgmem"].__path__ = [sys.argv[1] + "/pgmem"]
from pgmem.embedded import EmbeddedPostgres
server = EmbeddedPostgres(json.loads(sys.argv[2]), json.loads(sys.argv[3])).start()
print(json.dumps({"url": server.url, "data": str(server.data_dir)}), flush=True)
for line in sys.stdin:
    server.stop()
    print(json.dumps("stopped"), flush=True)
"""


class User:
    """Another process that uses an embedded server until it is stopped or killed."""

    def __init__(
        self,
        data_dir: Path | None = None,
        settings: Any = None,
        *,
        python: str = sys.executable,
        checkout: Path = CHECKOUT,
        **popen: Any,
    ) -> None:
        where = json.dumps(None if data_dir is None else str(data_dir))
        self.process = subprocess.Popen(
            [python, "-c", USER_PROGRAM, checkout, where, json.dumps(settings or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **popen,
        )

    def opened(self) -> User:
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.url, self.data = said["url"], Path(said["data"])
        return self

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("stop", file=self.process.stdin, flush=True)
        assert json.loads(self.process.stdout.readline()) == "stopped"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    """Return a function that starts a process that uses an embedded server."""
    users: list[User] = []

    def start(*args: Any, **kwargs: Any) -> User:
        users.append(User(*args, **kwargs))
        return users[-1]

    yield start
    for each in users:
        each.end()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter: pytest's folders are below one with mode 0700."""
    folder = Path(tempfile.mkdtemp(prefix="pgmem-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def query(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def server_pid(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split("\n")[0])


def watchdog_pid(server: int) -> int:
    command = ["ps", "-o", "ppid=", "-p", str(server)]
    return int(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    )


def is_alive(pid: int) -> bool:
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(pid))
