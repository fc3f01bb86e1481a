"""`pgmem tail`, as a process and in this one."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest

from pgmem import Event
from tests.support.commands import started


@pytest.fixture
def tail(database_url):
    """Return a function that starts the command as a process."""
    return partial(started, database_url, "tail")


def events_of(process, count):
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_last_events_then_new_ones_until_ctrl_c(memory, tail):
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


def test_filters_and_start(memory, tail):
    for stream in ("orders", "order-1", "order-2", "payments"):
        for kind in ("opened", "closed"):
            memory.events.append(stream, Event(type=kind, agent_id=stream))
    wanted = {
        ("--after", "3", "--prefix", "order", "--type", "closed"): [4, 6],
        ("--after", "0", "--agent", "payments", "orders", "payments"): [7, 8],
        ("-n", "3", "order-1"): [3, 4],
    }
    for arguments, positions in wanted.items():
        with tail(*arguments, "--json") as process:
            assert [e["position"] for e in events_of(process, len(positions))] == positions


def test_control_characters_are_escaped(memory, tail):
    memory.events.append("a\x1b[31mb", Event(type="t", payload={"text": "x\x9b2Jy"}))
    with tail("--after", "0", NO_COLOR="1") as process:
        titles, date, line = (process.stdout.readline() for _ in range(3))
    assert titles.split() == ["TIME", "POSITION", "STREAM", "TYPE", "AGENT", "PAYLOAD"]
    assert date.count("-") == 2
    assert "\x1b" not in line
    assert "\x9b" not in line
    assert "a\\x1b[31mb" in line
    assert line.split()[1:5] == ["1", "a\\x1b[31mb", "t", "tester"]


def test_position_above_the_head_waits_for_a_later_event(memory, tail):
    with tail("--after", "2", "--json") as process:
        for n in range(4):
            memory.events.append("s", Event(type="t", payload=n))
        assert [e["position"] for e in events_of(process, 2)] == [3, 4]


def test_full_prints_payload_and_metadata_below_the_event(memory, tail):
    memory.events.append("s", Event(type="t", payload={"n": 1}, metadata={"trace": "x"}))
    with tail("--full") as process:
        found = [process.stdout.readline() for _ in range(11)]
    assert [line.strip() for line in found[3:]] == [
        "payload:", "{", '"n": 1', "}", "metadata:", "{", '"trace": "x"', "}"
    ]  # fmt: skip


def test_change_of_the_state_shows_key_version_and_value(memory, tail):
    memory.state.put("k", {"n": 1})
    memory.state.delete("k")
    with tail() as process:
        found = [process.stdout.readline().rstrip() for _ in range(4)]
    assert found[2].endswith('  v1 {"n": 1}')
    assert found[3].endswith("  v2 deleted")


def test_empty_log_is_a_word_on_stderr(memory, tail):
    with tail() as process:
        assert process.stderr.readline() == "no events yet: waiting for the first one\n"
        memory.events.append("s", Event(type="t"))
        assert process.stdout.readline().startswith("TIME")
