"""`pgmem retention`, `trim`, `restore` and `maintain`, run in this process."""

from __future__ import annotations

import json
import signal

import pytest

from pgmem import Event
from pgmem.core.names import JANITOR_LEASE
from tests.support.commands import started


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return pgmem


@pytest.fixture
def log(memory):
    """A log of 30 events."""
    memory.events.append("s", [Event(type="t", payload=n) for n in range(30)])
    return memory.events


@pytest.mark.parametrize(
    ("scope", "shown"), [((), "events (all)"), (("--stream", "s"), "events s")]
)
def test_rule_is_set_listed_applied_and_removed(command, log, scope, shown):
    set_ = command("retention", "set", *scope, "--max-events", "10", "--max-age", "7d")
    assert set_ == (0, f"{shown}: keep 10, for 7.0 d\n", "")
    titles, row = command("retention", "list")[1].splitlines()
    assert titles.split() == ["OF", "NAME", "KEEP", "FOR", "SET"]
    assert row.split()[:5] == [*shown.split(), "10", "7.0", "d"]
    assert json.loads(command("retention", "list", "--json")[1])["max_count"] == 10
    assert json.loads(command("trim", "--dry-run", "--json")[1])["removed"] == 20
    assert log.count() == 30
    code, out, err = command("maintain")
    assert (code, err) == (0, "")
    assert "20 removed, positions 1 to 20" in out
    assert log.count() == 10
    removed = command("retention", "remove", *scope)
    assert removed == (0, f"{shown}: policy removed\n", "")
    code, out, err = command("retention", "remove", *scope)
    assert (code, out) == (1, "")
    assert err.startswith(f"pgmem: there is no policy for {shown};")
    assert err.count("\n") == 1


def test_rules_for_snapshots_are_named_by_kind(command):
    command("retention", "set", "--folds", "--max-events", "3")
    command("retention", "set", "--snapshots", "--stream", "nightly", "--max-age", "30d")
    rows = [row.split()[:4] for row in command("retention", "list")[1].splitlines()[1:]]
    assert rows == [["folds", "(all)", "3", "-"], ["snapshots", "nightly", "-", "30"]]


def test_empty_list_is_a_word_on_stderr(command):
    assert command("retention", "list") == (0, "", "no policies: everything is kept\n")
    assert command("retention", "list", "--json") == (0, "", "")


def test_maintain_does_nothing_beside_another_janitor(command, memory):
    with memory.leases.hold(JANITOR_LEASE):
        assert command("maintain") == (0, "", "another process is the janitor: nothing to do\n")


def test_maintain_repeats_until_ctrl_c(log, database_url):
    with started(database_url, "maintain", "--every", "0.01s", "--json") as process:
        for _ in range(2):
            assert json.loads(process.stdout.readline())["trimmed"]["removed"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


def test_exported_events_are_restored(command, log, tmp_path):
    code, out, err = command("trim", "--max-events", "10", "--export", str(tmp_path))
    assert (code, err) == (0, "")
    (file,) = tmp_path.iterdir()
    assert out.splitlines()[1] == f"  {file}"
    assert command("restore", str(file)) == (0, "the whole log: 20 events restored\n", "")
    assert [event.payload for event in log.read(after=0)] == list(range(30))
    report = json.loads(command("restore", str(file), "--json")[1])
    assert (report["restored"], report["present"]) == (0, 20)


def test_force_asks(command, log):
    arguments = ("trim", "--max-events", "10", "--force")
    code, out, err = command(*arguments, stdin=b"n\n")
    assert (code, out) == (1, "")
    assert "events that subscriptions and groups have not read?" in err
    assert log.count() == 30
    assert command(*arguments, "--yes")[0] == 0
    assert log.count() == 10


def test_trim_without_rules_removes_nothing(command, log):
    assert command("trim") == (0, "no policy for events: nothing is removed\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trim", "--max-events", "0"), "0"),
        (("trim", "--stream", "s"), "give --max-events or --max-age, or set one with "),
        (("trim", "--max-events", "1", "--export", "/nowhere/at/all"), "/nowhere"),
        (("restore", "/nowhere/at/all"), "/nowhere"),
    ],
)
def test_error_is_one_line(command, log, arguments, said):
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: ")
    assert err.count("\n") == 1
    assert said in err
    assert log.count() == 30
