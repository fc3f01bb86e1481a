"""Test `python -m benchmarks` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.audit import Faults
from benchmarks.crew import CrewError
from benchmarks.harness import Arm, Sample, Scenario
from benchmarks.scenarios import ENTRIES, HEADLINES
from benchmarks.scenarios.statement import script

ROOT = Path(__file__).parents[3]


def benchmarks(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no_such"], "no scenario no_such"),
        (["--only"], "expected at least one argument"),
        (["--rounds", "0"], "1 to 10000 rounds"),
        (["--rounds", "many"], "1 to 10000 rounds"),
        (["--json", "/no/such/folder/file"], "no folder /no/such/folder"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "runs", "left_out"),
    [
        ([], {"append", "many"}, {"other libraries", "group_growth"}),
        (["--quick"], {"append"}, {"other libraries", "many"}),
        (["--peers"], {"append", "many", "peer_append"}, set()),
        (["--quick", "--only", "many"], {"many"}, set()),
        (["--only", "group_growth"], {"group_growth"}, set()),
    ],
)
def test_left_out_scenarios_are_listed_with_the_reason(arguments, runs, left_out):
    parser = command._parser()
    options = parser.parse_args(arguments)
    chosen = command._chosen(parser, options.only, peers=options.peers, quick=options.quick)
    names = {entry.name for entry in chosen}
    said = command._left_out(options)
    assert runs <= names
    assert left_out <= set(said)
    if not options.only:
        assert names == {
            name for name, entry in ENTRIES.items() if options.peers or not entry.peers
        } - set(said)


def test_headlines_name_scenarios_of_existing_groups():
    groups = {name.partition("/")[0] for name in HEADLINES}
    assert groups <= set(ENTRIES)


@pytest.mark.parametrize(
    ("faults", "excused", "wrong"),
    [
        ({"starved": 3}, ("starved",), False),
        ({"starved": 3, "lost": 1}, ("starved",), True),
        ({"lost": 1}, (), True),
        ({}, (), False),
    ],
)
def test_only_what_an_arm_does_not_promise_is_excused(faults, excused, wrong):
    arm = Arm("a", lambda: Sample(1, Faults(**faults)), kind="redis", excused=excused)
    published = Arm("b", lambda: Sample(1, Faults(lost=9)), kind="published")
    result = harness.run(Scenario("s", "", "µs", [arm, published], rounds=1, warmup=0))
    assert command._is_wrong(result) == wrong


def test_failed_group_does_not_stop_the_others(monkeypatch, tmp_path, database_url, capsys):
    def fail(*args):
        raise CrewError("member 0 failed:\nValueError: what it was")

    monkeypatch.setattr(command, "_run", fail)
    file = tmp_path / "results.json"
    options = ["--only", "append", "--json", str(file), "--postgres-url", database_url]
    assert main(options) == 1
    assert "member 0 failed" in capsys.readouterr().err
    assert json.loads(file.read_text())["missing"]["append"] == "it failed: ValueError: what it was"


def test_help_names_every_scenario():
    done = benchmarks("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ENTRIES)


def test_missing_postgres_is_an_error(tmp_path):
    done = benchmarks("--only", "state_get", "--postgres-url", f"host={tmp_path} password=secret")
    assert done.returncode == 1
    assert "--postgres-url" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_quick_run_of_one_scenario(tmp_path, database_url):
    file = tmp_path / "results.json"
    done = benchmarks(
        *("--quick", "--only", "state_get", "--rounds", 2),
        *("--json", file, "--postgres-url", database_url),
    )
    assert done.returncode == 0, done.stderr
    assert "fsync of 8 kB" in done.stdout
    assert "pgmem / redis" in done.stdout
    (scenario,) = json.loads(file.read_text())["scenarios"]
    assert scenario["rounds"] == 2
    for arm in scenario["arms"]:
        assert len(arm["values"]) == 2
        assert not any(arm["faults"].values())
    assert scenario["verdicts"][0]["target"] == "≤ 0.8 ×"
    assert scenario["verdicts"][0]["met"] in (True, False)


def test_psycopg_parameters_become_pgbench_variables():
    text = b"INSERT INTO t VALUES (%(stream)s, %(payload)s)\n"
    assert script(text) == b"INSERT INTO t VALUES (:stream, :payload);\n"
