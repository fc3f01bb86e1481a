"""`pgmem subscriptions`, run in this process."""

from __future__ import annotations

import json

import pytest

from pgmem import Event


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem subscriptions` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return lambda *arguments, stdin=None: pgmem("subscriptions", *arguments, stdin=stdin)


@pytest.fixture
def billing(memory):
    """A durable subscription that has handled three of ten events."""
    memory.events.append("orders", [Event(type="placed")] * 10)
    with memory.events.subscribe("orders", after=0, durable="billing") as events:
        events.commit(events.receive(3)[-1])
    return lambda: memory.subscriptions.get("billing")


def test_list_shows_position_and_lag(command, billing):
    code, out, err = command("list")
    assert (code, err) == (0, "")
    titles, row = out.splitlines()
    assert titles.split() == ["SUBSCRIPTION", "POSITION", "LAG", "UPDATED", "OWNER"]
    assert row.split()[:3] == ["billing", "3", "7"]
    assert row.endswith("  -")
    document = json.loads(command("list", "--json")[1])
    assert (document["name"], document["position"], document["lag"]) == ("billing", 3, 7)
    assert document["owner"] is None


def test_empty_list_is_a_word_on_stderr(command):
    assert command("list") == (0, "", "no subscriptions\n")
    assert command("list", "--json") == (0, "", "")


def test_reset_asks(command, billing):
    code, out, err = command("reset", "billing", "0", stdin=b"n\n")
    assert (code, out) == (1, "")
    assert "Move subscription billing from 3 to 0?" in err
    assert billing().position == 3
    code, out, _ = command("reset", "billing", "0", stdin=b"y\n")
    assert (code, out) == (0, "billing: continues after position 0\n")
    assert billing().position == 0
    code, out, _ = command("reset", "billing", "7", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"subscription": "billing", "position": 7})


def test_reset_without_a_position_keeps_it(command, billing):
    code, out, err = command("reset", "billing", stdin=b"y\n")
    assert (code, out) == (0, "billing: continues after position 3\n")
    assert "Accept the present log for subscription billing at 3?" in err


def test_reset_above_the_head_is_refused(command, billing):
    code, out, err = command("reset", "billing", "11", "--yes")
    assert (code, out) == (1, "")
    assert "the last position of the log" in err
    assert err.count("\n") == 1
    assert billing().position == 3


def test_delete_asks(command, billing):
    code, out, err = command("delete", "billing", stdin=b"n\n")
    assert (code, out) == (1, "")
    assert "Delete subscription billing with its position 3?" in err
    assert command("delete", "billing", "--yes") == (0, "billing: deleted\n", "")
    assert billing() is None


@pytest.mark.parametrize("arguments", [["reset", "gone", "0", "--yes"], ["delete", "gone"]])
def test_unknown_subscription_is_one_line(command, memory, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: there is no subscription 'gone'")
    assert err.count("\n") == 1
