"""Test the peers: their environment is complete or absent, and its errors are shown."""

from __future__ import annotations

import contextlib
import sys

import pytest

from benchmarks import harness, servers
from benchmarks.__main__ import _chosen, _parser
from benchmarks.audit import Faults
from benchmarks.crew import CrewError, together
from benchmarks.peers import environment
from benchmarks.peers.environment import PeerError
from benchmarks.peers.process import WORKER, peer
from benchmarks.scenarios import ENTRIES, Bench
from benchmarks.scenarios._base import payload

PEER_ENTRIES = [name for name, entry in ENTRIES.items() if entry.peers]


@pytest.fixture
def requirements(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("eventsourcing==9.5.6\n")
    return file


def whole(folder, _requirements):
    python = environment.python_of(folder)
    python.parent.mkdir(parents=True)
    python.touch()


def test_each_peer_is_pinned_and_has_its_version_in_the_report():
    assert tuple(environment.versions()) == environment.PEERS
    lines = environment.REQUIREMENTS.read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_other_requirements_are_another_environment(requirements, tmp_path):
    first = environment.place(requirements, tmp_path)
    assert environment.place(requirements, tmp_path) == first
    requirements.write_text("eventsourcing==9.5.5\n")
    assert environment.place(requirements, tmp_path) != first


def test_another_python_is_another_environment(requirements, tmp_path, monkeypatch):
    first = environment.place(requirements, tmp_path)
    monkeypatch.setattr(sys, "version", "4.0.0")
    assert environment.place(requirements, tmp_path) != first


def test_an_environment_is_made_once(requirements, tmp_path, monkeypatch):
    made = []

    def make(folder, requirements):
        made.append(folder)
        whole(folder, requirements)

    monkeypatch.setattr(environment, "_make", make)
    cache = tmp_path / "cache"
    assert not environment.ready(requirements, cache)
    first = environment.environment(requirements, cache)
    assert environment.ready(requirements, cache)
    assert environment.environment(requirements, cache) == first
    assert len(made) == 1
    assert [folder.name for folder in cache.iterdir()] == [first.parents[1].name]


def test_half_an_environment_is_never_used(requirements, tmp_path, monkeypatch):
    def fail(folder, requirements):
        whole(folder, requirements)
        raise PeerError("no network")

    monkeypatch.setattr(environment, "_make", fail)
    cache = tmp_path / "cache"
    with pytest.raises(PeerError, match="no network"):
        environment.environment(requirements, cache)
    assert not environment.ready(requirements, cache)
    assert not list(cache.iterdir())


def test_one_of_two_concurrently_created_environments_is_used(requirements, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def make(folder, requirements):
        whole(environment.place(requirements, cache), requirements)  # the other one was quicker
        whole(folder, requirements)

    monkeypatch.setattr(environment, "_make", make)
    assert environment.environment(requirements, cache).exists()
    assert len(list(cache.iterdir())) == 1


def test_other_folder_in_its_place_is_not_removed(requirements, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_make", whole)
    theirs = environment.place(requirements, tmp_path) / "something"
    theirs.mkdir(parents=True)
    with pytest.raises(PeerError, match="remove it"):
        environment.environment(requirements, tmp_path)
    assert theirs.exists()


def test_failed_installation_shows_its_output(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such package')"]
    with pytest.raises(PeerError, match="no such package"):
        environment._run(command)


READY = "import sys\nsys.stdin.readline()\nprint('[true, null]', flush=True)\n"


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("import sys; sys.exit('cannot connect')", "cannot connect"),
        (READY + "sys.exit('lost the server')", "lost the server"),
        (READY + "print('hello', flush=True)\nsys.stdin.read()", "not a valid answer"),
        (READY + "print('17', flush=True)\nsys.stdin.read()", "not a valid answer"),
        (READY + "print('[true, 1, 2]', flush=True)\nsys.stdin.read()", "not a valid answer"),
        (READY + "print('[false, \"broke\"]', flush=True)\nsys.stdin.read()", "failed:\nbroke"),
        (
            READY + "sys.stdin.readline()\nprint('[true,', end='', flush=True)",
            "ended without an answer",
        ),
        (READY + "sys.stdin.read()", "did not answer in 3 s"),
    ],
)
def test_bad_answer_is_shown(tmp_path, worker, message):
    file = tmp_path / "worker.py"
    file.write_text(worker)

    def order():
        with peer("some", "", {}, python=sys.executable, worker=file, timeout=3) as started:
            started.run("append/1")

    with pytest.raises(CrewError, match="some ") as failed:
        order()
    assert message in str(failed.value)


def test_an_answer_may_come_in_pieces_and_be_long(tmp_path):
    file = tmp_path / "worker.py"
    file.write_text(
        READY + "import json, time\n"
        "for line in sys.stdin:\n"
        "    if line == 'null\\n': break\n"
        "    answer = list(range(50000)) if '[' in line else None\n"
        "    text = json.dumps([True, answer])\n"
        "    print(text[:5], end='', flush=True); time.sleep(0.05)\n"
        "    print(text[5:], flush=True)\n"
    )
    with peer("some", "", {}, python=sys.executable, worker=file, timeout=20) as started:
        for _ in range(2):
            assert together((started, "order", 1.0)) == [[list(range(50_000))]]


def test_worker_imports_nothing_of_the_project(tmp_path):
    def start():
        with peer("no-such-work", "", {}, python=sys.executable, worker=WORKER):
            pass

    with pytest.raises(PeerError, match="KeyError: 'no-such-work'"):
        start()
    files = list(WORKER.rglob("*.py"))
    assert WORKER / "__main__.py" in files
    for file in files:
        text = file.read_text()
        assert "import pgmem" not in text
        assert "from pgmem" not in text
        assert "from benchmarks" not in text


LISTED = [entry.name for entry in ENTRIES.values() if not entry.named]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], [name for name in LISTED if name not in PEER_ENTRIES]),
        (["--peers"], LISTED),
        (["--only", "peer_append"], ["peer_append"]),
        (["--peers", "--only", "append"], ["append"]),
    ],
)
def test_the_peers_run_when_they_are_asked_for(arguments, chosen):
    parser = _parser()
    options = parser.parse_args(arguments)
    entries = _chosen(parser, options.only, peers=options.peers, quick=options.quick)
    assert [entry.name for entry in entries] == chosen


@pytest.mark.thorough
@pytest.mark.parametrize("name", PEER_ENTRIES)
def test_every_peer_is_right(name, database_url):
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres(database_url))
        bench = Bench(postgres, stack, quick=True, rounds=1)
        for scenario in stack.enter_context(ENTRIES[name].setup(bench)):
            result = harness.run(scenario)
            assert all(faults == Faults() for faults in result.faults.values()), result.faults
            assert {arm.kind for arm in scenario.arms} == {"pgmem", "peer"}
            for arm in scenario.arms:
                assert result.times(arm.name).get_total_count() > 0


@pytest.mark.thorough
def test_unknown_order_is_an_error(database_url):
    with servers.postgres(database_url) as postgres, postgres.database() as url:

        def order():
            with peer("langgraph", url, payload(0)) as started:
                started.run("append/1")

        with pytest.raises(PeerError, match="UnknownOrder: append"):
            order()
