"""One process and its embedded server: start, stop, data, settings, refusals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from pgmem.embedded import cluster, server
from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.postgres import EmbeddedPostgres
from pgmem.errors import InvalidInput

from .conftest import (
    CHECKOUT,
    eventually,
    is_alive,
    kill_and_wait,
    query,
    server_pid,
    watchdog_pid,
)


def test_a_temporary_server_is_gone_with_its_data_and_its_watchdog() -> None:
    with EmbeddedPostgres() as postgres:
        assert query(postgres.url, "SELECT 1") == 1
        data, server = postgres.data_dir, server_pid(postgres.data_dir)
        watchdog = watchdog_pid(server)
    assert not data.parent.exists()
    assert not is_alive(server)
    assert eventually(lambda: not is_alive(watchdog), 2)


def test_two_temporary_servers_are_separate() -> None:
    with EmbeddedPostgres() as one, EmbeddedPostgres() as other:
        query(one.url, "CREATE TABLE t ()")
        assert query(other.url, "SELECT to_regclass('t')") is None


def test_the_url_serves_sqlalchemy_and_ignores_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGUSER", "other")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    monkeypatch.setenv("API_SECRET", "not the server's business")
    with EmbeddedPostgres() as postgres:
        url = sqlalchemy.make_url(postgres.url).set(drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_user")) == "postgres"
        engine.dispose()
        assert query(postgres.url, "SHOW server_encoding") == "UTF8"
        environment = Path(f"/proc/{server_pid(postgres.data_dir)}/environ")
        if environment.exists():
            assert {b"API_SECRET", b"PGDATA", b"PGUSER"}.isdisjoint(
                part.partition(b"=")[0] for part in environment.read_bytes().split(b"\0")
            )


def test_nothing_listens_on_tcp_and_the_socket_is_private() -> None:
    with EmbeddedPostgres() as postgres:
        assert query(postgres.url, "SHOW listen_addresses") == ""
        assert query(postgres.url, "SHOW fsync") == "on"
        runtime = postgres.data_dir.parent
        assert runtime.stat().st_mode & 0o777 == 0o700
        assert runtime.stat().st_uid == postgres.data_dir.stat().st_uid


def test_the_kept_data_is_there_on_reopening(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "data"
    with EmbeddedPostgres(folder) as postgres:
        query(postgres.url, "CREATE TABLE t AS SELECT 42 AS a")
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SELECT a FROM t") == 42


@pytest.mark.thorough
def test_an_instance_starts_again_after_stop(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    postgres.start()
    postgres.stop()
    postgres.stop()
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        _ = postgres.url
    with postgres:
        with pytest.raises(EmbeddedPostgresError, match="started already"):
            postgres.start()
        assert query(postgres.url, "SELECT 1") == 1


@pytest.mark.parametrize(
    "name",
    [
        "with a space",
        pytest.param("Dữ liệu – ü'\"$x", marks=pytest.mark.thorough),
        pytest.param("long/" + "/".join(["n" * 60] * 5), marks=pytest.mark.thorough),
        pytest.param("-D", marks=pytest.mark.thorough),
    ],
)
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    with EmbeddedPostgres(tmp_path / name) as postgres:
        assert query(postgres.url, "SELECT 1") == 1


def test_settings_are_in_force(tmp_path: Path) -> None:
    settings: dict[str, str | int | float | bool] = {
        "work_mem": "7MB",
        "max_connections": 33,
        "random_page_cost": 1.5,
        "fsync": False,
        "pgmem.test": "a b",
    }
    with EmbeddedPostgres(tmp_path / "data", settings) as postgres:
        found = {name: query(postgres.url, f"SHOW {name}") for name in settings}
    assert found == {
        "work_mem": "7MB",
        "max_connections": "33",
        "random_page_cost": "1.5",
        "fsync": "off",
        "pgmem.test": "a b",
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"": 1},
        {"work mem": 1},
        {"a;b": 1},
        {1: 1},
        {"work_mem": None},
        {"work_mem": float("nan")},
        {"work_mem": "a\nb"},
        {"work_mem": "a\0"},
        {"Listen_Addresses": "*"},
        {"hba_file": "/x"},
    ],
)
def test_a_setting_of_the_wrong_form_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        EmbeddedPostgres(settings=settings)


def test_a_server_that_does_not_start_tells_why_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)last lines.*"no_such_setting"'):
        EmbeddedPostgres(folder, {"no_such_setting": 1}).start()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)last lines.*shared_buffers"):
        EmbeddedPostgres(folder, {"shared_buffers": "lots"}).start()
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SELECT 1") == 1


def test_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder):
        pass
    (folder / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL 9 made it"):
        EmbeddedPostgres(folder).start()


def test_a_folder_with_something_else_in_it_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    before = tmp_path.stat()
    with pytest.raises(EmbeddedPostgresError, match=r"letter\.txt"):
        EmbeddedPostgres(tmp_path).start()
    after = tmp_path.stat()
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (
        after.st_mode,
        after.st_uid,
        after.st_mtime_ns,
    )
    with pytest.raises(EmbeddedPostgresError, match="File exists"):
        EmbeddedPostgres(tmp_path / "letter.txt").start()
    with pytest.raises(EmbeddedPostgresError, match="Not a directory"):
        EmbeddedPostgres(tmp_path / "letter.txt" / "below").start()


def test_no_folder_above_gets_another_mode_or_owner(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir(mode=0o700)
    (tmp_path / "one" / "two").mkdir(mode=0o711)
    folder = tmp_path / "one" / "two" / "data"
    above = [*folder.parents]
    before = [(place.stat().st_mode, place.stat().st_uid, place.stat().st_gid) for place in above]
    with EmbeddedPostgres(folder):
        pass
    after = [(place.stat().st_mode, place.stat().st_uid, place.stat().st_gid) for place in above]
    assert before == after


@pytest.mark.thorough
def test_a_creation_that_died_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "data"
    for point in ("run_initdb", "_move_up"):
        with monkeypatch.context() as patch:
            patch.setattr(cluster, point, die)
            with pytest.raises(KeyboardInterrupt):
                EmbeddedPostgres(folder).start()
        assert not (folder / "PG_VERSION").exists()
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SELECT 1") == 1
    assert not [entry.name for entry in folder.iterdir() if entry.name.startswith(".pgmem")]


@pytest.mark.thorough
def test_a_stale_pid_file_with_a_living_pid_is_no_server(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder) as postgres:
        query(postgres.url, "CREATE TABLE t ()")
        lines = (folder / "postmaster.pid").read_text().split("\n")
    # A process of the server's own account: of another's, the server would not mind the pid.
    owner = folder.stat()
    switch = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    stranger = subprocess.Popen(["sleep", "60"], **(switch if os.geteuid() == 0 else {}))
    try:
        (folder / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]))
        with EmbeddedPostgres(folder) as postgres:
            assert query(postgres.url, "SELECT count(*) FROM t") == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(60)


def test_a_killed_server_starts_again_on_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder) as first:
        query(first.url, "CREATE TABLE t AS SELECT 7 AS a")
        kill_and_wait(server_pid(folder))
        with EmbeddedPostgres(folder) as second:
            assert query(second.url, "SELECT a FROM t") == 7
            server = server_pid(folder)
    assert eventually(lambda: not is_alive(server))


NO_FSYNC = {"fsync": False}  # after a crash the server syncs every file of the folder: seconds
# A backend in this notices neither the end of its client nor that of its server.
BUSY = """DO $$
    DECLARE until timestamptz := clock_timestamp() + interval '2 s';
    BEGIN WHILE clock_timestamp() < until LOOP END LOOP; END
$$"""
COUNT_BUSY = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"


def test_a_server_killed_with_open_connections_starts_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder, NO_FSYNC) as first, contextlib.ExitStack() as connections:
        query(first.url, "CREATE TABLE t AS SELECT 7 AS a")
        for _ in range(8):
            connections.enter_context(contextlib.closing(psycopg.connect(first.url)))
        kill_and_wait(server_pid(folder))
        with EmbeddedPostgres(folder, NO_FSYNC) as second:
            assert query(second.url, "SELECT a FROM t") == 7


@pytest.mark.thorough
def test_backends_that_outlive_a_killed_server_are_waited_for(tmp_path: Path) -> None:
    def work() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            query(first.url, BUSY)

    folder = tmp_path / "data"
    with EmbeddedPostgres(folder, NO_FSYNC) as first:
        query(first.url, "CREATE TABLE t AS SELECT 7 AS a")
        kept = folder / f"{cluster.LOG_FILE}.1"
        worker = threading.Thread(target=work)
        worker.start()
        assert eventually(lambda: query(first.url, COUNT_BUSY) == 1)
        kill_and_wait(server_pid(folder))
        begun = time.monotonic()
        with EmbeddedPostgres(folder, NO_FSYNC) as second:
            assert time.monotonic() - begun > 0.5
            assert query(second.url, "SELECT a FROM t") == 7
            assert "shared memory block" not in kept.read_text()  # it is the killed server's
    worker.join()


@pytest.mark.thorough
def test_backends_that_never_end_are_waited_for_in_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    watchdogs: list[server.Watchdog] = []

    def fail(watchdog: server.Watchdog, *_: object, **__: object) -> None:
        watchdogs.append(watchdog)
        raise server.BackendsRemain("tried, found old ones")

    with EmbeddedPostgres(folder, NO_FSYNC) as first:
        kill_and_wait(server_pid(folder))
        with monkeypatch.context() as patch:
            patch.setattr(server, "start", fail)
            with pytest.raises(EmbeddedPostgresError, match="old ones"):
                EmbeddedPostgres(folder, start_timeout=1.5).start()
        assert len(watchdogs) > 1
        # They end although another user still shares the folder.
        assert eventually(lambda: not any(each.runtime.exists() for each in watchdogs))
        assert first.data_dir == folder


@pytest.mark.thorough
def test_last_user_stops_a_server_without_a_watchdog(tmp_path: Path) -> None:
    for folder in (tmp_path / "data", None):
        with EmbeddedPostgres(folder) as postgres:
            data, server = postgres.data_dir, server_pid(postgres.data_dir)
            kill_and_wait(watchdog_pid(server))
            assert query(postgres.url, "SELECT 1") == 1
        assert not is_alive(server)
        assert data.exists() == (folder is not None)


@pytest.mark.thorough
def test_a_server_of_another_program_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedPostgres(folder):
        pass
    owner = folder.stat()
    switch = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    stranger = subprocess.Popen(  # a process in the folder, with a pid file: looks like one
        ["sleep", "60"],
        cwd=folder,
        **(switch if os.geteuid() == 0 else {}),
    )
    try:
        (folder / "postmaster.pid").write_text(f"{stranger.pid}\n.\n0\n5432\n/run\n*\n0\nready\n")
        with pytest.raises(EmbeddedPostgresError, match="did not start"):
            EmbeddedPostgres(folder).start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(60)


def test_ctrl_c_does_not_reach_the_server() -> None:
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import psycopg
from pgmem.embedded import EmbeddedPostgres
# Inherited as ignored where the suite runs in the background of a script.
signal.signal(signal.SIGINT, signal.default_int_handler)
with EmbeddedPostgres() as server:
    try:
        os.killpg(0, signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        pass
    print(psycopg.connect(server.url).execute("SELECT 'alive'").fetchone()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, CHECKOUT],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


@pytest.mark.thorough
def test_an_open_connection_does_not_hold_up_the_stop() -> None:
    postgres = EmbeddedPostgres().start()
    server = server_pid(postgres.data_dir)
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE t ()")
        postgres.stop()
        assert not is_alive(server)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEM_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match="has no `postgres`"):
        EmbeddedPostgres().start()
    for name in ("postgres", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    with pytest.raises(EmbeddedPostgresError, match="is a script"):
        EmbeddedPostgres().start()


@pytest.mark.thorough
def test_the_server_ends_with_sigterm_to_the_watchdog() -> None:
    postgres = EmbeddedPostgres().start()
    data, server = postgres.data_dir, server_pid(postgres.data_dir)
    os.kill(watchdog_pid(server), signal.SIGTERM)
    assert eventually(lambda: not is_alive(server) and not data.parent.exists())
    postgres.stop()
