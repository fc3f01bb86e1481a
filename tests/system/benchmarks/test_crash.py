"""Test that the crash scenarios count what is lost, and which losses are faults."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import disk
from benchmarks.arms import right
from benchmarks.audit import Faults
from benchmarks.disk import NoDisk, powered
from benchmarks.scenarios import ENTRIES, Bench, _killed
from benchmarks.scenarios._base import bare
from benchmarks.scenarios._killed import Found, PgmemStore, RedisStore
from benchmarks.scenarios.crash import (
    ACKNOWLEDGED,
    REACHING,
    WAYS,
    Written,
    audit,
    crash,
    cut_power,
    kill_server,
)

pytest.importorskip("redis")


class Forgetful(RedisStore):
    """Lose an acknowledged event after a restart."""

    def found(self, label):
        with self.client() as client:
            stream = f"{label}:{right.EVENTS}"
            client.xdel(stream, client.xrange(stream, count=1)[0][0])
        return super().found(label)


class ForgetfulPgmem(PgmemStore):
    """Lose an acknowledged event; a trigger protects the log, so it is switched off."""

    def found(self, label):
        with bare(self.url) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                "DELETE FROM pgmem.events WHERE position ="
                " (SELECT min(position) FROM pgmem.events WHERE stream = %s)",
                [label],
            )
        return super().found(label)


@pytest.fixture
def folder(tmp_path_factory):
    # The server's user must be able to reach the folder, and a socket's path must not be long.
    folder = tmp_path_factory.mktemp("crash")
    folder.chmod(0o755)
    return folder


def written(*numbers, unknown=None):
    return Written(list(numbers), [time.monotonic()] * len(numbers), unknown)


def test_acknowledged_events_must_exist_and_the_interrupted_one_may():
    both = Found([("a", 1), ("a", 2)], {"a": 2})
    one = Found([("a", 1)], {"a": 1})
    for found in (both, one):
        assert not audit([written(1, unknown=2)], found)
    assert audit([written(1, 2)], one) == Faults(lost=1)
    assert audit([written(1)], both) == Faults(duplicated=1)


@pytest.mark.parametrize(
    ("events", "states", "faults"),
    [
        ([("a", 1), ("a", 2)], {"a": 1}, Faults(torn=1)),
        ([("a", 1)], {"a": 2}, Faults(lost=1, torn=1)),
        ([("a", 1), ("a", 2)], {}, Faults(torn=1)),
        ([], {"a": 2}, Faults(lost=2, torn=1)),
        ([("a", 2), ("a", 1)], {"a": 1}, Faults(reordered=1)),
        ([("a", 1), ("a", 2), ("a", 2)], {"a": 2}, Faults(duplicated=1)),
    ],
)
def test_the_state_is_that_of_the_last_event(events, states, faults):
    assert audit([written(1, 2)], Found(events, states)) == faults


def test_kill_of_a_redis_without_persistence_loses_all_and_is_no_fault(folder):
    sample = crash(RedisStore(folder, "none", multi=True), kill_server, 0.2, keeps=False)
    assert sample.value == sample.figures[ACKNOWLEDGED] > 0
    assert 0 < sample.figures[REACHING] < 2_000
    assert not sample.faults


def test_kill_of_a_redis_that_syncs_loses_nothing_and_a_planted_loss_is_seen(folder):
    sample = crash(RedisStore(folder, "strict", multi=True), kill_server, 0.2, keeps=True)
    assert sample.figures[ACKNOWLEDGED] > 0
    assert (sample.value, sample.faults) == (0, Faults())
    sample = crash(Forgetful(folder, "strict", multi=True), kill_server, 0.2, keeps=True)
    assert (sample.value, sample.faults.lost) == (1, 1)


def test_kill_of_pgmem_strict_loses_nothing_and_a_planted_loss_is_seen(folder):
    sample = crash(PgmemStore(folder, "strict"), kill_server, 0.2, keeps=True)
    assert sample.figures[ACKNOWLEDGED] > 0
    assert (sample.value, sample.faults) == (0, Faults())
    sample = crash(ForgetfulPgmem(folder, "strict"), kill_server, 0.2, keeps=True)
    assert (sample.value, sample.faults.lost) == (1, 1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda patch: patch.setattr(disk.os, "geteuid", lambda: 1000), "root"),
        (lambda patch: patch.setattr(disk.sys, "platform", "darwin"), "Linux"),
        (lambda patch: patch.setattr(disk.shutil, "which", lambda *_, **__: None), "mkfs.ext4"),
    ],
)
def test_without_power_cuts_the_scenario_is_missing_with_the_reason(broken, reason, monkeypatch):
    broken(monkeypatch)
    bench = Bench(None, contextlib.ExitStack())
    with ENTRIES["crash_power"].setup(bench) as scenarios:
        assert scenarios == []
    assert list(bench.missing) == ["crash_power"]
    if sys.platform == "linux" and (reason == "Linux" or disk.os.geteuid() == 0):
        assert reason in bench.missing["crash_power"]


@pytest.fixture
def powered_disk():
    try:
        with powered(512) as found:
            yield found
    except NoDisk as error:
        pytest.skip(str(error))  # the reason why this machine has no disk that can be cut


def test_a_cut_loses_what_was_not_synced_and_keeps_the_rest(powered_disk):
    (powered_disk.path / "synced").write_text("kept")
    with (powered_disk.path / "synced").open() as file:
        disk.os.fsync(file.fileno())
    (powered_disk.path / "unsynced").write_text("lost")
    powered_disk.cut()
    powered_disk.remount()
    names = {path.name for path in powered_disk.path.iterdir()}
    assert "synced" in names
    assert "unsynced" not in names
    assert (powered_disk.path / "synced").read_text() == "kept"


def test_the_disk_is_gone_even_if_its_process_is_killed(powered_disk):
    script = (
        "import os, signal\nfrom benchmarks.disk import powered\n"
        "with powered(64) as disk:\n"
        "    print(disk.path, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    folder = Path(done.stdout.strip()).parent
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mounts").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_power_cut_loses_only_what_was_not_promised(powered_disk, way):
    fault = functools.partial(cut_power, powered_disk)
    samples = [crash(way.make(powered_disk.path), fault, 0.5, keeps=way.keeps) for _ in range(2)]
    lost = sum(sample.value for sample in samples)
    assert lost == 0 if way.keeps else lost > 0
    for sample in samples:
        assert sample.faults == Faults(torn=sample.faults.torn if way.kind == "published" else 0)


@pytest.mark.thorough
def test_a_strict_memory_on_a_server_that_does_not_sync_is_at_fault(powered_disk, monkeypatch):
    settings = _killed.POSTGRES_SETTINGS | {"synchronous_commit": "off"}
    monkeypatch.setattr(_killed, "POSTGRES_SETTINGS", settings)
    fault = functools.partial(cut_power, powered_disk)
    store = PgmemStore(powered_disk.path, "strict")
    assert sum(crash(store, fault, 0.5, keeps=True).faults.lost for _ in range(2)) > 0
