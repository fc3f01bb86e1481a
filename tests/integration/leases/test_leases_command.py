"""`pgmem leases`, run in this process."""

from __future__ import annotations

import json
import threading
import time

import pytest

from pgmem import Memory
from pgmem.errors import LeaseLost


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem leases` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return lambda *arguments: pgmem("leases", *arguments)


@pytest.fixture
def held(memory):
    """Three leases, two of them with one prefix."""
    return {name: memory.leases.acquire(name, ttl=60) for name in ("run:b", "other\x9b2J", "run:a")}


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_list_shows_owner_and_token(command, memory, held):
    found = lines(command("list", "--json")[1])
    assert [lease["name"] for lease in found] == ["other\x9b2J", "run:a", "run:b"]
    info = memory.leases.get("run:a")
    assert found[1] == {
        "name": "run:a", "owner": info.owner, "token": held["run:a"].token,
        "acquired_at": info.acquired_at.isoformat(), "expires_at": info.expires_at.isoformat(),
        "waiters": 0,
    }  # fmt: skip
    found = lines(command("list", "run:", "--json")[1])
    assert [lease["name"] for lease in found] == ["run:a", "run:b"]
    code, out, err = command("list")
    assert (code, err) == (0, "")
    titles, *rows = out.splitlines()
    assert titles.split() == ["LEASE", "TOKEN", "SINCE", "EXPIRES", "WAITING", "OWNER"]
    assert [row.split()[0] for row in rows] == ["other\\x9b2J", "run:a", "run:b"]
    assert info.owner in rows[1]


def test_empty_list_is_a_word_on_stderr(command):
    assert command("list") == (0, "", "no leases are held\n")
    assert command("list", "--json") == (0, "", "")


def test_show_prints_one_lease(command, memory, held):
    info = memory.leases.get("run:a")
    code, out, err = command("show", "run:a")
    assert (code, err) == (0, "")
    said = {line[:10].rstrip(): line[10:] for line in out.splitlines()}
    assert said.pop("since") < said.pop("expires")
    assert said == {
        "lease": "run:a", "owner": info.owner, "token": str(info.token), "waiting": "0"
    }  # fmt: skip
    shown = json.loads(command("show", "run:a", "--json")[1])
    assert shown == lines(command("list", "run:a", "--json")[1])[0]


def test_show_of_a_free_lease_is_exit_code_1(command, memory, held):
    held["run:a"].release()
    for name in ("run:a", "never"):
        code, out, err = command("show", name, "--json")
        assert (code, out) == (1, "")
        assert err.startswith(f"pgmem: the lease '{name}' is not held")
        assert err.count("\n") == 1


def test_release_takes_the_lease_from_its_owner(command, memory, held):
    lease = held["run:a"]
    token = str(lease.token)
    assert command("release", "run:a", "--token", token) == (0, "run:a: released\n", "")
    assert memory.leases.get("run:a") is None
    memory.state.create("k", 1)
    with pytest.raises(LeaseLost):
        memory.state.compare_and_set("k", 2, expected_version=1, fence=lease)
    other = str(held["run:b"].token)
    code, out, _ = command("release", "run:b", "--token", other, "--json")
    assert (code, json.loads(out)) == (0, {"lease": "run:b", "released": True})


def test_release_gives_the_lease_to_the_waiter(command, memory, held, database_url):
    got = []

    def wait():
        with (
            Memory(database_url, agent_id="second") as second,
            second.leases.hold("run:a", timeout=20) as lease,
        ):
            got.append(lease.token)

    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        deadline = time.monotonic() + 20
        while not json.loads(command("show", "run:a", "--json")[1])["waiters"]:
            assert time.monotonic() < deadline
        assert "\nwaiting   1\n" in command("show", "run:a")[1]
        token = held["run:a"].token
        assert command("release", "run:a", "--token", str(token))[0] == 0
    finally:
        waiter.join(30)
    assert got
    assert got[0] > token


def test_release_needs_the_current_token(command, memory, held):
    token = held["run:a"].token
    for wrong in (token + 1, token - 1, held["run:b"].token):
        code, out, err = command("release", "run:a", "--token", str(wrong), "--json")
        assert (code, out) == (1, "")
        assert f"release of the lease 'run:a' with the fencing token {wrong} refused" in err
        assert err.count("\n") == 1
    assert command("release", "never", "--token", "1")[0] == 1
    assert command("release", "run:a")[0] == 2
    assert command("release", "run:a", "--token", "x")[0] == 2
    assert memory.leases.get("run:a").token == token
