"""The whole demo on a real server: the command, its faults, its figures, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem.cli.app import main
from pgmem.demo.summary import MUST_BE_ZERO
from tests.support.server import fresh_database
from tests.system.embedded.conftest import is_alive

# A suite that runs in the background of a script has SIGINT ignored, and its processes inherit it.
PROGRAM = """
import signal
from pgmem.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
COMMAND = [sys.executable, "-c", PROGRAM, "demo"]


def demo(*options, timeout=120):
    return subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=timeout, check=False
    )


def agents_of(url):
    """Count the agents' sessions in the database. There are none after a demo."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'pgmem demo%'"
        ).fetchone()[0]


@pytest.fixture(scope="module")
def compared(pg_server_url):
    """One comparison for all tests, the isolated run and then the shared one, and its database."""
    with fresh_database(pg_server_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE events (mine int)")  # not the demo's
        done = demo(
            *("--payments", "150", "--seed", "11", "--rate", "120", "--compare", "--json"),
            *("--url", url),
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout), url


def test_a_run_keeps_every_promise_while_every_fault_happens(compared):
    document, _ = compared
    shared, figures = document["shared"], document["shared"]["figures"]
    assert document["ok"]
    assert {name: figures[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0)
    assert figures["payments"] == 150
    assert figures["duplicates_at_append"] == document["faults_sent"]["retry"] > 0
    assert figures["duplicates_at_work"] == document["faults_sent"]["resend"] > 0
    assert figures["invalid_refused"] == document["faults_sent"]["invalid"] > 0
    assert figures["booked"] + figures["declined"] + figures["invalid_refused"] == 150
    assert figures["conflicts"] == figures["conflicts_resolved"]
    assert (figures["kills"], figures["killed_agent"]) == (1, "processor")
    assert figures["recovery_seconds"] > 0
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"]
    assert shared["run"].endswith("-shared")


def test_a_run_leaves_no_agent_and_touches_no_table_of_others(compared):
    _, url = compared
    assert agents_of(url) == 0
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == 0


def test_without_shared_memory_the_same_run_goes_wrong(compared):
    document, _ = compared
    isolated, shared = document["isolated"]["figures"], document["shared"]["figures"]
    assert shared["manual_work"] == shared["errors"] == shared["balances_off"] == 0
    assert isolated["manual_work"] > 0
    assert isolated["duplicates_at_append"] == 0
    assert isolated["payments"] == shared["payments"] == 150
    assert isolated["requests_sent"] == shared["requests_sent"]
    assert document["published"]["with_memory"]["manual_percent"] == 1.2


@pytest.mark.thorough
def test_a_single_payment_is_a_run_too_and_a_pipe_gets_no_control_codes(make_database):
    done = demo("--payments", "1", "--kill", "none", "--url", make_database())
    assert done.returncode == 0, done.stderr
    assert "All figures that must be zero are zero." in done.stdout
    assert "payments applied twice" in done.stdout
    assert "schemas pgmem_demo and pgmem_demo_bank" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def agent_pids(supervisor):
    command = ["ps", "-o", "pid=", "--ppid", str(supervisor)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_agent_outlives_the_supervisor(make_database, how):
    url = make_database()
    command = [*COMMAND, "--payments", "5000", "--url", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: agents_of(url) >= 3)
        # One is frozen, as it is while the supervisor catches it at work.
        agents = agent_pids(process.pid)
        os.kill(agents[-1], signal.SIGSTOP)
        os.kill(process.pid, how)
        assert process.wait(40) in (130, -how)
        wait_for(lambda: agents_of(url) == 0)
        wait_for(lambda: not any(is_alive(pid) for pid in agents))
    finally:
        process.kill()
        process.wait(60)


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--payments", "0"], 2, "payments"),
        (["--payments", "many"], 2, "payments"),
        (["--rate", "0"], 2, "rate"),
        (["--kill", "everybody"], 2, "kill"),
        (["--url", "mysql://u:secret@localhost/x"], 1, "PostgreSQL"),
        (["--url", "host=/nowhere user=me password=secret"], 1, "/nowhere"),
    ],
)
def test_bad_input_is_one_clear_message(options, code, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", *options])
    said = capsys.readouterr()
    assert ended.value.code == code
    assert message in said.err
    assert "secret" not in said.out + said.err


def test_a_role_that_may_create_nothing_gets_one_clear_line(make_database, capsys):
    url = make_database()
    role = "demo_visitor_" + uuid.uuid4().hex[:8]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            with pytest.raises(SystemExit) as ended:
                main(["demo", "--payments", "1", "--url", make_conninfo(url, user=role)])
            assert ended.value.code == 1
            assert "lacks a privilege" in capsys.readouterr().err
        finally:
            connection.execute(f"DROP ROLE {role}")
