"""`pgmem groups`, run in this process."""

from __future__ import annotations

import json

import pytest

from pgmem import Event
from pgmem.cli import groups
from pgmem.errors import LeaseLost
from tests.support.subscriptions import sql


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem groups` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return lambda *arguments, stdin=None: pgmem("groups", *arguments, stdin=stdin)


@pytest.fixture
def group(memory):
    """A group of ten events: 1 and 2 are held, 3 is delayed, 4 and 5 are dead, 6 to 10 are new."""
    memory.events.append("orders", [Event(type="placed", payload={"n": n}) for n in range(10)])
    group = memory.groups.create("billing", stream="orders")
    group.held = group.read("worker-1", 2)
    assert [d.event.position for d in group.held] == [1, 2]
    later, *hopeless = group.read("worker-2", 3)
    later.nack(delay=3600, error="not yet")
    for delivery in hopeless:
        delivery.dead_letter(f"no\x9b2J card {delivery.event.position}")
    return group


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_list_shows_lag_and_open_events(command, memory, group):
    memory.events.append("other", Event(type="t"))
    memory.groups.create("all", ordered_by="stream")
    everything, billing = lines(command("list", "--json")[1])
    info = group.info()
    assert billing == {
        "name": "billing", "selection": {"streams": ["orders"]}, "ordered_by": None,
        "max_attempts": 5,
        "retry": {"backoff": 1.0, "max_backoff": 300.0, "jitter": 0.5, "conflicts": 20},
        "position": 5, "lag": 5, "held": 2, "delayed": 1, "dead_letters": 2,
        "created_at": info.created_at.isoformat(), "updated_at": info.updated_at.isoformat(),
    }  # fmt: skip
    assert (everything["name"], everything["lag"], everything["ordered_by"]) == (
        "all",
        11,
        "stream",
    )
    code, out, err = command("list")
    assert (code, err) == (0, "")
    assert [row.split() for row in out.splitlines()] == [
        ["GROUP", "POSITION", "LAG", "HELD", "DELAYED", "DEAD", "FOLLOWS"],
        ["all", "0", "11", "0", "0", "0", "all", "events"],
        ["billing", "5", "5", "2", "1", "2", "stream=orders"],
    ]


def test_empty_lists_are_a_word_on_stderr(command, memory):
    assert command("list") == (0, "", "no groups\n")
    assert command("list", "--json") == (0, "", "")
    memory.groups.create("idle")
    assert command("pending", "idle") == (0, "", "no pending events\n")
    assert command("dead", "idle") == (0, "", "no dead letters\n")
    assert command("pending", "idle", "--json") == command("dead", "idle", "--json") == (0, "", "")


def test_list_skips_a_group_deleted_meanwhile(command, memory, group, monkeypatch):
    memory.groups.create("z")
    seen = memory.groups.list()
    memory.groups.delete("billing")
    monkeypatch.setattr(type(memory.groups), "list", lambda _: seen)
    assert [info["name"] for info in lines(command("list", "--json")[1])] == ["z"]


def test_show_prints_one_group(command, memory, group):
    shown = json.loads(command("show", "billing", "--json")[1])
    assert shown == lines(command("list", "--json")[1])[0]
    code, out, err = command("show", "billing")
    assert (code, err) == (0, "")
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert said["follows"] == "stream=orders"
    assert said["ordered"] == "by  nothing"
    assert said["position"] == "5, 5 events behind"
    assert said["open"] == "2 held, 1 delayed"
    assert said["dead"] == "2"
    memory.groups.create("many", stream=["b", "a"], type="t", ordered_by="account")
    out = command("show", "many")[1]
    assert 'follows     streams=["a", "b"], type=t' in out
    assert "ordered by  account" in out


def test_alter_changes_what_is_given(command, group):
    code, out, err = command(
        "alter", "billing", "--max-attempts", "9", "--backoff", "5s", "--type", "placed", "--json"
    )
    assert (code, err) == (0, "")
    altered = json.loads(out)
    assert (altered["max_attempts"], altered["retry"]["backoff"]) == (9, 5.0)
    assert altered["retry"]["max_backoff"] == 300.0
    assert altered["selection"] == {"types": ["placed"]}
    assert (altered["position"], altered["held"], altered["dead_letters"]) == (5, 2, 2)
    out = command("alter", "billing", "--max-backoff", "1m", "--everything")[1]
    assert "follows     all events" in out
    assert "attempts    at most 9" in out
    assert "retry       after 5 s, doubled up to 60 s" in out


def test_alter_needs_an_option_and_a_group(command, group):
    code, _, err = command("alter", "billing")
    assert code == 2
    assert "nothing to change" in err
    code, _, err = command("alter", "billing", "--everything", "--type", "t")
    assert code == 2
    assert "--everything excludes" in err
    code, _, err = command("alter", "nothing", "--max-attempts", "3")
    assert code == 1
    assert "there is no group 'nothing'" in err
    assert group.info().max_attempts == 5


def test_pending_shows_held_and_delayed_events(command, group):
    held, _, delayed = lines(command("pending", "billing", "--json")[1])
    assert (held["position"], held["member"], held["attempts"]) == (1, "worker-1", 1)
    assert (held["delayed"], held["until"]) == (False, group.held[0].expires_at.isoformat())
    assert held["claimed_at"] < held["until"]
    assert (delayed["position"], delayed["member"], delayed["error"]) == (3, None, "not yet")
    assert (delayed["delayed"], delayed["claimed_at"]) == (True, None)
    code, out, err = command("pending", "billing")
    assert (code, err) == (0, "")
    rows = [row.split() for row in out.splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["1", "1", "worker-1"], ["2", "1", "worker-1"], ["3", "1", "(delayed)"]
    ]  # fmt: skip
    assert rows[3][-2:] == ["not", "yet"]
    code, out, err = command("pending", "billing", "--limit", "2", "--json")
    assert [event["position"] for event in lines(out)] == [1, 2]
    assert err.startswith("the first 2: there may be more")
    assert command("pending", "billing", "--limit", "0")[0] == 2


def test_dead_prints_all_pages(command, group, memory, monkeypatch):
    monkeypatch.setattr(groups, "PAGE", 2)
    for delivery in group.read("worker-3", 5):
        delivery.dead_letter("late")
    found = lines(command("dead", "billing", "--json")[1])
    assert [letter["position"] for letter in found] == [4, 5, 6, 7, 8, 9, 10]
    assert (found[0]["error"], found[0]["member"], found[0]["attempts"]) == (
        "no\x9b2J card 4", "worker-2", 1
    )  # fmt: skip
    assert found[0]["event"]["stream"] == "orders"
    assert found[0]["event"]["payload"] == {"n": 3}
    out = command("dead", "billing")[1].splitlines()
    assert len(out) == 8
    assert out[0].split()[:3] == ["POSITION", "FAILED", "STREAM"]
    assert out[1].split()[0] == "4"
    assert out[1].endswith("  orders  placed         1  worker-2  no\\x9b2J card 4")


def test_dead_letter_without_its_event_is_shown_and_not_requeued(command, group, database_url):
    sql(
        database_url,
        "SET session_replication_role = replica; DELETE FROM pgmem.events WHERE position = 4",
    )
    first = lines(command("dead", "billing", "--json")[1])[0]
    assert (first["position"], first["event"]) == (4, None)
    assert "  (trimmed)  " in command("dead", "billing")[1].splitlines()[1]
    code, out, err = command("requeue", "billing", "4", "5")
    assert (code, out) == (1, "billing: 1 dead letter requeued\n")
    assert "1 of the 2 positions are not dead letters" in err


def test_requeue_by_position_does_not_ask(command, group):
    assert command("requeue", "billing", "4") == (0, "billing: 1 dead letter requeued\n", "")
    assert [letter.position for letter in group.dead_letters()] == [5]
    risen = group.read("worker-1", 1)[0]
    assert (risen.event.position, risen.attempts) == (4, 1)
    code, out, err = command("requeue", "billing", "5", "5", "4", "9", "--json")
    assert (code, json.loads(out)) == (1, {"group": "billing", "requeued": 1})
    assert err.startswith("pgmem: 2 of the 3 positions are not dead letters of the group 'billing'")
    assert err.count("\n") == 1
    assert group.dead_letters() == []


def test_requeue_of_all_asks(command, group):
    code, out, err = command("requeue", "billing", stdin=b"n\n")
    assert (code, out) == (1, "")
    assert "Requeue all 2 dead letters of group billing?" in err
    assert len(group.dead_letters()) == 2
    code, out, _ = command("requeue", "billing", stdin=b"y\n")
    assert (code, out) == (0, "billing: 2 dead letters requeued\n")
    assert group.dead_letters() == []
    code, out, err = command("requeue", "billing", "--yes", "--json")
    assert (code, json.loads(out), err) == (0, {"group": "billing", "requeued": 0}, "")


def test_reset_asks(command, group):
    for stdin in (b"n\n", b""):
        code, out, err = command("reset", "billing", "0", stdin=stdin)
        assert (code, out) == (1, "")
        assert "Move the group billing from position 5 to 0?" in err
        assert "lose 2 held events; 1 delayed event will be forgotten" in err
        assert (group.info().position, group.info().held) == (5, 2)
    code, out, _ = command("reset", "billing", "0", stdin=b"y\n")
    assert (code, out) == (0, "billing: continues after position 0\n")
    info = group.info()
    assert (info.position, info.held, info.delayed, info.dead_letters) == (0, 0, 0, 2)
    with pytest.raises(LeaseLost):
        group.ack(group.held)
    found = command("reset", "billing", "7", "--yes", "--json")
    assert (found[0], json.loads(found[1])) == (0, {"group": "billing", "position": 7})
    assert group.info().position == 7


def test_reset_above_the_head_is_refused(command, group):
    code, out, err = command("reset", "billing", "11", "--yes")
    assert (code, out) == (1, "")
    assert "the last position of the log is 10" in err
    assert command("reset", "billing", "soon", "--yes")[0] == 2
    assert command("reset", "billing", "--yes")[0] == 2
    assert group.info().position == 5


def test_delete_asks(command, memory, group):
    code, out, err = command("delete", "billing", stdin=b"n\n")
    assert (code, out) == (1, "")
    assert (
        "Delete the group billing at position 5, with 2 held events, 1 delayed event and "
        "2 dead letters?"
    ) in err
    assert memory.groups.get("billing").name == "billing"
    assert command("delete", "billing", stdin=b"y\n")[:2] == (0, "billing: deleted\n")
    assert memory.groups.list() == []
    memory.groups.create("billing")
    found = command("delete", "billing", "--yes", "--json")
    assert (found[0], json.loads(found[1])) == (0, {"group": "billing", "deleted": True})
    assert memory.events.count("orders") == 10


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["pending"], ["dead"], ["requeue"], ["requeue", 1], ["reset", 0], ["delete"]],
)
def test_unknown_group_is_one_line(command, memory, arguments):
    name, *rest = arguments
    code, out, err = command(name, "gr\x9boup", *map(str, rest))
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: there is no group 'gr\\x9boup'")
    assert err.count("\n") == 1
    assert memory.groups.list() == []
