"""`python -m benchmarks` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.scenarios import ENTRIES
from benchmarks.scenarios.statement import script

ROOT = Path(__file__).parents[2]


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


def test_help_names_every_scenario():
    done = benchmarks("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ENTRIES)


def test_a_postgres_that_is_not_there(tmp_path):
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
    assert scenario["verdicts"][0]["target"] == "≤ 1.8 ×"
    assert scenario["verdicts"][0]["met"] in (True, False)


def test_psycopg_parameters_become_pgbench_variables():
    text = b"INSERT INTO t VALUES (%(stream)s, %(payload)s)\n"
    assert script(text) == b"INSERT INTO t VALUES (:stream, :payload);\n"
