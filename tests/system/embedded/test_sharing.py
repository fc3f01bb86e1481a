"""Several processes that share one embedded server: what keeps it running and what ends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.postgres import EmbeddedPostgres

from .conftest import (
    CHECKOUT,
    User,
    eventually,
    is_alive,
    kill_and_wait,
    query,
    server_pid,
    watchdog_pid,
)

StartUser = Callable[..., User]


def test_processes_that_start_at_once_share_one_server(user: StartUser, tmp_path: Path) -> None:
    users = [user(tmp_path / "data") for _ in range(3)]
    assert len({each.opened().url for each in users}) == 1
    server = server_pid(tmp_path / "data")
    for each in users[:2]:
        each.stop()
        assert query(each.url, "SELECT 1") == 1
    users[2].stop()
    assert not is_alive(server)


def test_instances_in_one_process_share_one_server(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data") as one:
        with EmbeddedPostgres(tmp_path / "x" / ".." / "data") as other:
            assert one.url == other.url
        assert query(one.url, "SELECT 1") == 1


@pytest.mark.thorough
def test_threads_that_come_and_go_always_find_a_server(tmp_path: Path) -> None:
    def visit(_: int) -> object:
        with EmbeddedPostgres(tmp_path / "data") as postgres:
            return query(postgres.url, "SELECT 1")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(visit, range(24))) == [1] * 24
    assert not (tmp_path / "data" / "postmaster.pid").exists()


@pytest.mark.thorough
def test_a_user_with_other_settings_is_refused(user: StartUser, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    user(folder, {"work_mem": "7MB"}).opened()
    with pytest.raises(EmbeddedPostgresError, match="work_mem=8MB"):
        EmbeddedPostgres(folder, {"work_mem": "8MB"}).start()
    for settings in ({}, {"work_mem": "7MB"}):
        with EmbeddedPostgres(folder, settings) as postgres:
            assert query(postgres.url, "SHOW work_mem") == "7MB"


def test_kill_9_of_the_only_user_ends_server_watchdog_and_temporary_data(user: StartUser) -> None:
    only = user().opened()
    server = server_pid(only.data)
    watchdog = watchdog_pid(server)
    only.kill()
    assert eventually(lambda: not is_alive(server) and not is_alive(watchdog))
    assert not only.data.parent.exists()


def test_kill_9_of_one_of_two_users_leaves_the_other_its_server(
    user: StartUser, tmp_path: Path
) -> None:
    first, second = user(tmp_path / "data").opened(), user(tmp_path / "data").opened()
    server = server_pid(tmp_path / "data")
    first.kill()
    assert not eventually(lambda: not is_alive(server), 0.5)
    assert query(second.url, "SELECT 1") == 1
    second.kill()
    assert eventually(lambda: not is_alive(server))
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert query(postgres.url, "SELECT 1") == 1


@pytest.mark.thorough
@pytest.mark.parametrize("delay", [0.05, 0.2, 0.5])
def test_kill_9_while_starting_leaves_nothing(
    user: StartUser, tmp_path: Path, delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Path("/tmp") / f"t{tmp_path.parent.name[-3:]}{tmp_path.name[-4:]}"
    runtime.mkdir(mode=0o755)
    try:
        monkeypatch.setenv("TMPDIR", str(runtime))
        for data_dir in (None, tmp_path / "data"):
            starting = user(data_dir)
            with pytest.raises(subprocess.TimeoutExpired):
                starting.process.wait(delay + 0.1)  # the interpreter takes that long to get there
            starting.kill()
        assert eventually(lambda: not list(runtime.iterdir()))
        with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert query(postgres.url, "SELECT 1") == 1
    finally:
        runtime.rmdir()


@pytest.mark.thorough
def test_a_server_left_by_user_and_watchdog_is_taken_over(user: StartUser, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = user(folder).opened()
    server = server_pid(folder)
    kill_and_wait(watchdog_pid(server))
    first.kill()
    assert is_alive(server)
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SELECT 1") == 1
        assert not is_alive(server)


FORKING_PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
import warnings; warnings.simplefilter("ignore")
from pgmem.embedded import EmbeddedPostgres
server = EmbeddedPostgres().start()
print(server.data_dir, flush=True)
child = os.fork()
if child == 0:
    if sys.argv[2] == "leaves":
        server.stop()
        sys.exit(0)
    import time
    time.sleep(60)
if sys.argv[2] == "leaves":
    print(os.waitpid(child, 0)[1], flush=True)
else:
    print(child, flush=True)
sys.stdin.readline()
"""


@pytest.mark.thorough
def test_a_forked_child_that_ends_does_not_stop_the_server() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING_PROGRAM, CHECKOUT, "leaves"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    server = server_pid(Path(process.stdout.readline().strip()))
    assert process.stdout.readline() == "0\n"  # its stop() did nothing, and no error
    assert not eventually(lambda: not is_alive(server), 0.3)
    process.communicate("\n", timeout=60)
    assert eventually(lambda: not is_alive(server))


def test_a_forked_child_does_not_keep_the_server_alive() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING_PROGRAM, CHECKOUT, "stays"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    server = server_pid(Path(process.stdout.readline().strip()))
    child = int(process.stdout.readline())
    process.kill()
    process.wait(60)
    try:
        assert eventually(lambda: not is_alive(server))
        assert is_alive(child)
    finally:
        kill_and_wait(child)
        process.communicate(timeout=60)


@pytest.mark.thorough
def test_a_program_that_outlives_its_starter_does_not_keep_the_server_alive() -> None:
    postgres = EmbeddedPostgres().start()
    server = server_pid(postgres.data_dir)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        postgres.stop()
        assert not is_alive(server)
        program.kill()
