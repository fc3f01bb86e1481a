"""`pgmem import-redis`, run in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pgmem.cli.app import main
from pgmem.redis import Imports
from tests.system.redis.importing.support import fill, numbers, published


@pytest.fixture
def pgmem(capfd, importing, database_url, monkeypatch, tmp_path):
    """Runs the command in this process. Returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, redis=importing.url):
        with pytest.raises(SystemExit) as ended:
            main(["import-redis", redis, "--url", database_url, "--name", "test", *arguments])
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run


def test_the_whole_way(pgmem, source, memory, tmp_path):
    fill(source, 10)
    source.hset("agent:state", "v:t", 1)
    source.sadd("processed:events", "e1")
    source.zadd("board", {"a": 1})
    source.xgroup_create("agent:events", "billing", "0")
    source.xreadgroup("billing", "a", {"agent:events": ">"}, count=3)
    code, out, err = pgmem("--dry-run")
    assert (code, out) == (0, "")
    assert "dry run: nothing was written" in err
    assert "stream agent:events → agent:events: 10 events" in err
    assert "left in Redis: 1 keys of type zset (board)" in err
    assert (memory.events.count(), Imports(memory).list()) == (0, [])
    code, out, err = pgmem("--verify")
    assert (code, out) == (0, "")
    assert "group agent:events:billing: 3 open" in err
    assert "compared: 16 same" in err
    assert "both sides are equal" in err
    code, out, err = pgmem("--cut-over", "--json")
    document = json.loads(out)
    assert (code, document["ended"]) == (0, "cut over")
    assert document["groups"] == [{"group": "agent:events:billing", "open": 3}]
    code, out, err = pgmem()
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "pgmem: the import 'test' is cut over" in err
    code, out, err = pgmem("--reverse", "--json")
    assert (code, json.loads(out)["ended"]) == (0, "written back")
    assert source.type("agent:events") == b"stream"
    assert not (tmp_path / "import-redis-refused.jsonl").exists()


def test_json_tells_everything(pgmem, source, tmp_path):
    fill(source, 3)
    source.xadd("agent:events", published(0, payload="{"), id="4-0")
    source.lpush("queue", 1)
    code, out, _ = pgmem("--json", "--verify", "--refused", "bad.jsonl")
    assert code == 1  # something was left out
    assert json.loads(out) == {
        "import": "test",
        "found": {"stream": 4},
        "streams": [
            {
                "key": "agent:events",
                "stream": "agent:events",
                "events": 3,
                "refused": 1,
                "trimmed_unread": 0,
                "read_to": "4-0",
                "ends": False,
            }
        ],
        "groups": [],
        "removed": 0,
        "left": {"list": {"keys": 1, "examples": ["queue"]}},
        "claims": 0,
        "undecided": 0,
        "collisions": [],
        "mixed_types": [],
        "refused": 1,
        "refused_file": "bad.jsonl",
        "compared": {
            "same": 3,
            "refused": 1,
            "written_back": 0,
            "only_here": 0,
            "changed_here": 0,
            "missing": 0,
            "different": 0,
            "disordered": 0,
            "examples": [],
            "equal": True,
        },
        "ended": "imported",
    }
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1


def test_a_dry_run_lists_refused_items_and_writes_nothing(pgmem, source, memory):
    fill(source, 2)
    source.xadd("agent:events", published(0, payload="{"), id="3-0")
    source.hset("h", mapping={"a": 1, "b": 2})
    assert pgmem()[0] == 1
    source.hdel("h", "b")
    fill(source, 2, first=4)
    code, out, _ = pgmem("--dry-run", "--json")
    document = json.loads(out)
    assert (code, document["removed"]) == (1, 1)
    assert (document["streams"][0]["events"], document["refused"]) == (4, 1)
    assert numbers(memory) == [1, 2]
    assert memory.state.get("h:b").value == 2


def test_a_gap_is_reported_with_exit_code_1(pgmem, source):
    fill(source, 5)
    assert pgmem()[0] == 0
    fill(source, 20, first=6)
    source.xtrim("agent:events", maxlen=10, approximate=False)
    code, _, err = pgmem()
    assert code == 1
    assert "10 trimmed before they were read" in err
    assert "what was left out is listed in import-redis-refused.jsonl" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--follow", "--cut-over"), "exclude each other"),
        (("--dry-run", "--reverse"), "exclude each other"),
        (("--dry-run", "--verify"), "not with --dry-run"),
        (("--hash-as", "rows"), "fields"),
        (("--max-payload-bytes", "0"), "max-payload-bytes"),
    ],
)
def test_a_wrong_command_line(pgmem, arguments, words):
    code, out, err = pgmem(*arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_errors_are_one_line_without_a_password(pgmem):
    for url in ("redis://bob:s3cr3t@127.0.0.1:1", "http://bob:s3cr3t@x", "redis://b:s3cr3t@h:x"):
        code, out, err = pgmem(redis=url)
        assert (code, out) == (1, "")
        assert err.startswith("pgmem: ")
        assert err.count("\n") == 1
        assert "s3cr3t" not in err
    code, _, err = pgmem("--stream", "s={nope}{field}")
    assert (code, err[:6]) == (1, "pgmem:")


def test_rules_and_limits_reach_the_import(pgmem, source, memory):
    fill(source, 2, "in")
    source.xadd("in", published(3, payload=json.dumps("x" * 200)))
    source.hset("user:1", mapping={"age": "41"})
    source.sadd("done", "e1")
    code, _, _ = pgmem(
        *("--stream", "in=out", "--hash", "user:*", "--hash-as", "entry", "--values", "json"),
        *("--dedupe", "done={member}", "--max-payload-bytes", "150"),
    )
    assert code == 1
    assert numbers(memory, "out") == [1, 2]
    assert memory.state.get("user:1").value == {"age": 41}
    assert [record.key for record in Imports(memory).known_records()] == ["e1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_in_order_when_told(
    source, importing, memory, database_url, number, tmp_path
):
    fill(source, 3)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from pgmem.cli.app import main; main()"),
            *("import-redis", importing.url, "--url", database_url, "--follow", "--json"),
        ],
        cwd=tmp_path,
        env={**os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(numbers(memory)) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fill(source, 2, first=4)
        while len(numbers(memory)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["ended"], document["streams"][0]["events"]) == ("stopped", 5)
    assert "following; end with Ctrl-C" in err
