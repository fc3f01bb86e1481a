"""`pgmem state`, run in this process."""

from __future__ import annotations

import json
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from pgmem.cli import state
from tests.support.commands import started


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem state` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return lambda *arguments, stdin=None: pgmem("state", *arguments, stdin=stdin)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None]}, "text", -5, 0, False, None, [], ":smile:", "[bold]x", "ü\x9b"]
)
def test_value_is_printed_as_it_was_set(command, memory, value):
    code, out, _ = command("set", "k", json.dumps(value))
    assert (code, memory.state.get("k").value) == (0, value)
    assert out.startswith("k: version 1, updated 20")
    code, out, err = command("get", "k")
    assert (code, json.loads(out)) == (0, value)
    assert "\x9b" not in out
    assert err.startswith("k: version 1, updated 20")
    assert command("set", "copy", "-", stdin=out.encode())[0] == 0
    assert memory.state.get("copy").value == value


def test_json_holds_the_whole_entry(command, memory):
    entry = memory.state.put("k", {"n": 1}, ttl=60)
    assert json.loads(command("get", "k", "--json")[1]) == {
        "key": "k", "version": 1, "value": {"n": 1},
        "updated_at": entry.updated_at.isoformat(), "expires_at": entry.expires_at.isoformat(),
    }  # fmt: skip
    written = json.loads(command("set", "k", "2", "--json")[1])
    assert (written["version"], written["position"], written["expires_at"]) == (2, 2, None)
    assert json.loads(command("delete", "k", "--json")[1]) == {"key": "k", "deleted": True}


def test_missing_entry_is_one_line_and_exit_code_1(command, memory):
    memory.state.put("gone", 1, ttl=0.001)
    time.sleep(0.01)
    for arguments in (["get", "k"], ["get", "gone"], ["delete", "k"], ["get", "k", "--json"]):
        code, out, err = command(*arguments)
        assert (code, out) == (1, "")
        assert err.startswith(f"pgmem: there is no state entry '{arguments[1]}'")
        assert err.count("\n") == 1
    code, out, err = command("history", "k")
    assert (code, out, err) == (1, "", "pgmem: the log has no changes of the state entry 'k'\n")


def test_conditional_writes_need_the_expected_version(command, memory):
    assert command("set", "k", "1", "--create")[0] == 0
    code, out, err = command("set", "k", "2", "--create")
    assert (code, out) == (1, "")
    assert "create of state 'k' expected no entry, found version 1" in err
    assert command("set", "k", "3", "--expected-version", "1")[0] == 0
    code, out, err = command("set", "k", "4", "--expected-version", "1")
    assert (code, out) == (1, "")
    assert "expected version 1, found version 2: nothing was changed" in err
    assert command("delete", "k", "--expected-version", "1")[0] == 1
    assert memory.state.get("k").value == 3
    assert command("delete", "k", "--expected-version", "2")[:2] == (0, "k: deleted\n")
    assert memory.state.get("k") is None


def test_ttl_sets_and_keeps_the_end(command, memory):
    def remaining():
        return memory.state.get("k").expires_at - datetime.now(UTC)

    command("set", "k", "1", "--ttl", "2h")
    assert timedelta(hours=1.9) < remaining() <= timedelta(hours=2)
    command("set", "k", "2", "--expected-version", "1")
    assert remaining() > timedelta(hours=1.9)
    command("set", "k", "3", "--create", "--ttl", "1d")
    assert remaining() < timedelta(hours=2)
    command("set", "k", "4")
    assert memory.state.get("k").expires_at is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("k", "{secret}"), "VALUE is not JSON: Expecting property name"),
        (("k", "secret"), "a string needs its own quotes"),
        (("k", '{"secret": 1, "secret": 2}'), "has a key twice"),
        (("k", "NaN"), "nan at $ is no JSON number"),
        (("k", "1e999"), "inf at $ is no JSON number"),
        (("k", "123456789012345678901234567890"), "needs more than 64 bits"),
        (("k", r'"\ud800secret"'), "lone surrogate"),
        (("k", r'"\u0000secret"'), "NUL"),
        (("k", "[" * 100_000), "nested too deeply"),
        (("", "1"), "key is empty"),
        (("k" * 513, "1"), "513 bytes"),
        (("k", "1", "--ttl", "0s"), "ttl must be above 0"),
    ],
)
def test_value_that_cannot_be_written_is_one_line(command, memory, arguments, said):
    code, out, err = command("set", *arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1
    assert "secret" not in err
    assert memory.state.list() == []


@pytest.mark.parametrize(
    ("stdin", "said"),
    [(b"", "standard input is not JSON"), (b'"\xff"', "it is not UTF-8"), (b"{} {}", "Extra data")],
)
def test_unreadable_standard_input_changes_nothing(command, memory, stdin, said):
    code, _, err = command("set", "k", "-", stdin=stdin)
    assert (code, memory.state.list()) == (1, [])
    assert said in err


def test_wrong_usage_changes_nothing(command, memory):
    for arguments in (
        ["k", "1", "--creat"],
        ["k", "1", "--tll", "5s"],
        ["k"],
        ["k", "1", "--ttl", "soon"],
        ["k", "1", "--expected-version", "-1"],
        ["k", "1", "--create", "--expected-version", "1"],
    ):
        assert command("set", *arguments)[0] == 2
    assert memory.state.list() == []


def test_list_prints_all_pages(command, memory, monkeypatch):
    monkeypatch.setattr(state, "PAGE", 3)
    for n in range(7):
        memory.state.put(f"a{n}", n)
    memory.state.put("b", "x" * 500)
    memory.state.delete("a3")
    found = lines(command("list", "--json")[1])
    assert [entry["key"] for entry in found] == ["a0", "a1", "a2", "a4", "a5", "a6", "b"]
    assert found[-1]["value"] == "x" * 500
    assert [e["value"] for e in lines(command("list", "a", "--json")[1])] == [0, 1, 2, 4, 5, 6]
    assert [e["key"] for e in lines(command("list", "--limit", "4", "--json")[1])] == [
        "a0", "a1", "a2", "a4"
    ]  # fmt: skip
    titles, *rows = command("list")[1].splitlines()
    assert titles.split() == ["KEY", "VERSION", "UPDATED", "EXPIRES", "VALUE"]
    assert len(rows) == 7
    assert rows[0].split()[:2] == ["a0", "1"]
    assert rows[0].split()[-2:] == ["-", "0"]
    assert rows[6].endswith('x"')
    assert titles.index("VALUE") == rows[0].rindex("0") == rows[6].index('"x')


def test_empty_list_is_a_word_on_stderr(command, memory):
    assert command("list") == (0, "", "no entries\n")
    said = "no entries with a key that begins with 'x:'\n"
    assert command("list", "x:") == (0, "", said)
    assert command("list", "--json") == (0, "", "")


def test_history_prints_all_changes(command, memory, monkeypatch):
    monkeypatch.setattr(state, "PAGE", 2)
    memory.state.put("k", {"n": 1})
    memory.state.put("other", 0)
    memory.state.touch("k", ttl=60)
    memory.state.delete("k")
    memory.state.put("k", "\x9b2J")
    memory.state.put("k", 3, ttl=5)
    found = lines(command("history", "k", "--json")[1])
    assert [(c["version"], c["position"], c["deleted"], c["value"]) for c in found] == [
        (1, 1, False, {"n": 1}), (2, 4, True, None), (3, 5, False, "\x9b2J"), (4, 6, False, 3),
    ]  # fmt: skip
    assert {(c["key"], c["agent_id"]) for c in found} == {("k", "tester")}
    assert found[1]["type"] == "state.deleted"
    out = command("history", "k")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["POSITION", "1", "4", "5", "6"]
    assert out.splitlines()[2].split()[3:] == ["2", "state.deleted", "tester", "(deleted)"]
    assert "\x9b" not in out


def test_watch_prints_changes_until_ctrl_c(memory, database_url):
    stopped = threading.Event()

    def write():  # until the first line is there, which shows that the watch has begun
        n = 0
        while not stopped.wait(0.02):
            memory.state.put("a:first", n := n + 1)

    writer = threading.Thread(target=write)
    with started(database_url, "state", "watch", "a:", "--json") as process:
        writer.start()
        try:
            first = json.loads(process.stdout.readline())
        finally:
            stopped.set()
            writer.join(20)
        assert first["value"] == first["version"]
        memory.state.put("b:other", 1)
        memory.state.put("a:x", {"n": 1})
        memory.state.touch("a:x", ttl=60)
        memory.state.delete("a:x")
        found = []
        while len(found) < 3:
            change = json.loads(process.stdout.readline())
            assert change["key"] != "b:other"
            found += [change] if change["key"] == "a:x" else []
        assert [(c["version"], c["deleted"], c["value"]) for c in found] == [
            (1, False, {"n": 1}), (None, False, None), (2, True, None),
        ]  # fmt: skip
        assert found[1]["expires_at"] is not None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
