"""`pgmem tail` as somebody types it."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest

from pgmem import Event
from tests.support.commands import started


@pytest.fixture
def tail(database_url):
    """Runs the command as a process."""
    return partial(started, database_url, "tail")


def events_of(process, count):
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_the_last_lines_then_what_comes(memory, tail):
    for n in range(5):
        memory.events.append("payments", Event(type="received", payload={"n": n}))
    with tail("--lines", "2", "--json") as process:
        assert [e["payload"]["n"] for e in events_of(process, 2)] == [3, 4]
        memory.events.append("payments", Event(type="validated", payload={"n": 5}))
        memory.state.put("account:1", {"balance": 1})
        first, second = events_of(process, 2)
        assert (first["type"], first["position"], first["agent_id"]) == ("validated", 6, "tester")
        assert second["change"] == {
            "key": "account:1", "version": 1, "deleted": False, "value": {"balance": 1},
            "expires_at": None,
        }  # fmt: skip
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_filters_and_where_to_begin(memory, tail):
    for stream in ("orders", "order-1", "order-2", "payments"):
        for kind in ("opened", "closed"):
            memory.events.append(stream, Event(type=kind, agent_id=stream))
    wanted = {
        ("--after", "0", "--prefix", "order-"): [3, 4, 5, 6],
        ("--after", "2", "--type", "closed"): [4, 6, 8],
        ("--after", "0", "orders", "payments"): [1, 2, 7, 8],
        ("--after", "0", "--agent", "order-2"): [5, 6],
        ("-n", "3", "order-1"): [3, 4],
    }
    for arguments, positions in wanted.items():
        with tail(*arguments, "--json") as process:
            assert [e["position"] for e in events_of(process, len(positions))] == positions


def test_a_line_for_people_obeys_no_control_character(memory, tail):
    memory.events.append("a\x1b[31mb", Event(type="t", payload={"text": "x\x9b2Jy"}))
    with tail("--after", "0", NO_COLOR="1") as process:
        line = process.stdout.readline()
    assert "\x1b" not in line
    assert "\x9b" not in line
    assert "a\\x1b[31mb" in line
    assert " t  tester " in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--after", "-1"), "--after takes a position"),
        (("--after", "soon"), "'soon'"),
        (("--after", "99"), "above the last position of the log, 0"),
        (("a", "--prefix", "b"), "stream= or prefix="),
    ],
)
def test_wrong_arguments_are_told_in_one_line(pgmem, database_url, monkeypatch, arguments, said):
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    code, out, err = pgmem("tail", *arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1
