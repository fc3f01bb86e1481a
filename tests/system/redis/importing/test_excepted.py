"""One key that blocks is reported, never holds up the others, and can be left out."""

from __future__ import annotations

import pytest

from pgmem import Event
from pgmem.redis import Imports
from pgmem.redis.errors import SourceError
from pgmem.redis.importing.rules import EXCEPTED
from tests.system.redis.importing.support import fill, numbers


def phase(memory):
    return Imports(memory).get("test", "import").detail["phase"]


def fill_two(source):
    fill(source, 3)
    fill(source, 3, "bad")
    source.hset("h", "a", 1)
    source.hset("bad:h", "a", 1)
    source.sadd("s", "m")


def test_a_key_left_out_is_not_imported_compared_or_fenced(source, importing, memory):
    fill_two(source)
    report = importing.run(excepted=["bad*"])
    assert report.survey.left[EXCEPTED][0] == 2
    assert report.complete
    assert numbers(memory, "bad") == []
    _, compared = importing.cut_over(verify=True, excepted=["bad*"])
    assert (compared.equal, compared.same) == (True, 5)
    assert (source.type("bad"), source.type("bad:h")) == (b"stream", b"hash")
    # The way back knows what was left out: old writers use it all the time.
    fill(source, 1, "bad", first=4)
    importing.reverse()
    assert source.xlen("bad") == 4
    assert phase(memory) == "importing"


def test_a_key_left_out_after_it_was_imported_stays_in_pgmem(source, importing, memory):
    fill_two(source)
    importing.run()
    source.hdel("bad:h", "a")
    assert importing.run(excepted=["bad*"]).removed == 0
    assert memory.state.get("bad:h:a").value == 1
    assert importing.compared(excepted=["bad*"]).equal


def test_a_key_that_cannot_be_fenced_ends_the_cut_over_before_a_fence(source, importing, memory):
    fill_two(source)
    fill(source, 1, "bad:before-pgmem")
    source.set("x", 1)
    with pytest.raises(SourceError, match=r"nothing was fenced.*'bad'.*--except KEY"):
        importing.cut_over()
    assert source.type("agent:events") == b"stream"
    assert phase(memory) == "importing"
    importing.cut_over(excepted=["bad"])
    assert source.type("agent:events") == b"string"


def test_a_user_that_may_not_write_is_refused_before_a_fence(source, importing, memory):
    fill_two(source)
    rights = ("+@all", "~agent:*", "~h*", "~s*", "%R~bad*")
    source.execute_command("ACL", "SETUSER", "imp", "on", ">pw", *rights)
    url = importing.url.replace("unix://", "unix://imp:pw@")
    with pytest.raises(SourceError, match=r"nothing was fenced, because 2 keys"):
        importing.cut_over(url=url)
    source.execute_command("ACL", "SETUSER", "imp", "-eval")
    with pytest.raises(SourceError, match=r"does not let this user run EVAL"):
        importing.cut_over(url=url)
    source.execute_command("ACL", "DELUSER", "imp")
    assert source.type("agent:events") == b"stream"


def test_a_key_that_does_not_exist_is_checked_before_a_fence_too(source, importing):
    fill(source, 3)  # the other one is fenced before a writer creates it
    rules = {"streams": ["agent:events", "later"]}
    rights = ("+@all", "~agent:*", "%R~later*")
    source.execute_command("ACL", "SETUSER", "imp", "on", ">pw", *rights)
    url = importing.url.replace("unix://", "unix://imp:pw@")
    with pytest.raises(SourceError, match=r"nothing was fenced, because 1 keys .*'later'"):
        importing.cut_over(url=url, **rules)
    source.execute_command("ACL", "DELUSER", "imp")
    assert source.type("agent:events") == b"stream"
    importing.cut_over(**rules)
    assert source.type("later") == b"string"


def test_a_fence_that_a_client_removed_is_put_back(source, importing):
    fill(source, 3)
    rules = {"streams": ["agent:events"]}
    importing.cut_over(**rules)
    source.delete("agent:events")
    importing.cut_over(**rules)
    assert source.type("agent:events") == b"string"
    assert source.xlen("agent:events:before-pgmem") == 3


RIGHTS_OF_STREAMS = ["hget", "hset", "xgroup|create", "xgroup|setid", "xadd", "xack", "xclaim"]


@pytest.mark.parametrize("command", RIGHTS_OF_STREAMS)
def test_a_right_that_the_way_back_needs_is_named_before_it_begins(
    source, importing, memory, command
):
    fill(source, 3)
    rules = {"streams": ["agent:events"]}
    importing.cut_over(**rules)
    source.execute_command("ACL", "SETUSER", "imp", "on", ">pw", "~*", "+@all", f"-{command}")
    url = importing.url.replace("unix://", "unix://imp:pw@")
    words = command.upper().replace("|", " ")
    with pytest.raises(SourceError, match=f"does not let this user run {words}. .*nothing was"):
        importing.reverse(url=url, **rules)
    source.execute_command("ACL", "DELUSER", "imp")
    assert phase(memory) == "cut over"


def test_the_key_of_the_progress_is_asked_for_before_the_way_back_begins(source, importing, memory):
    fill(source, 3)
    importing.cut_over()
    source.execute_command("ACL", "SETUSER", "imp", "on", ">pw", "~agent:*", "+@all")
    url = importing.url.replace("unix://", "unix://imp:pw@")
    with pytest.raises(SourceError, match=r"the key b'pgmem:written-back:test'.*~pgmem:written-"):
        importing.reverse(url=url)
    assert phase(memory) == "cut over"
    source.execute_command("ACL", "SETUSER", "imp", "~pgmem:written-back:*")
    assert "blocked" not in importing.reverse(url=url)
    source.execute_command("ACL", "DELUSER", "imp")


def test_a_key_that_blocks_may_have_any_name(source, importing, memory):
    key = b"bad\xff"  # not imported, and fenced as the others are
    source.hset(key, "a", 1)
    fill(source, 3)
    importing.cut_over()
    assert source.type(key) == b"string"
    source.delete(key)
    source.hset(key, "a", 2)
    assert importing.reverse()["blocked"] == 1
    assert importing.reverse()["blocked"] == 1
    assert (source.xlen("agent:events"), phase(memory)) == (3, "reversing")
    source.delete(key)
    assert "blocked" not in importing.reverse()
    assert source.hgetall(key) == {b"a": b"1"}


def test_keys_that_block_stay_fenced_and_the_others_go_back(source, importing, memory):
    fill_two(source)
    importing.cut_over()
    for stream in ("agent:events", "bad"):
        memory.events.append(stream, Event(type="t", payload={"n": 4}))
    for key in ("h:a", "bad:h:a"):
        memory.state.put(key, 2)
    memory.dedupe.run_once("s:new", lambda: None)
    # A client has replaced the data of two keys.
    for key in ("bad:before-pgmem", "bad:h:before-pgmem"):
        source.delete(key)
        source.lpush(key, "x")
    written = importing.reverse()
    assert (written["blocked"], written["events"], written["records"]) == (2, 1, 1)
    assert source.xlen("agent:events") == 4
    assert source.hget("h", "a") == b"2"
    assert source.sismember("s", "new")
    assert {key for kind, key, *_ in importing.refused() if kind == "key"} == {"bad", "bad:h"}
    assert (source.type("bad"), source.type("bad:h")) == (b"string", b"string")
    assert phase(memory) == "reversing"
    # The old writers go on, and a second run does not touch what they write.
    source.hdel("h", "a")
    source.xadd("agent:events", {"payload": '{"n": 5}'})
    source.delete("bad:before-pgmem")
    assert importing.reverse()["blocked"] == 1
    assert source.xlen("bad") == 1
    assert (source.exists("h"), source.xlen("agent:events")) == (0, 5)
    assert phase(memory) == "reversing"
    assert "blocked" not in importing.reverse(excepted=["bad:h"])
    assert phase(memory) == "importing"
    assert source.type("bad:h") == b"string"
    importing.run(excepted=["bad:h"])
    assert numbers(memory) == [1, 2, 3, 4, 5]


def test_a_stream_that_is_another_one_is_listed_and_the_others_are_imported(
    source, importing, memory
):
    fill_two(source)
    importing.run()
    source.delete("bad")
    fill(source, 1, "bad")
    fill(source, 1, first=4)
    report = importing.run()
    assert (report.refused, numbers(memory)) == (1, [1, 2, 3, 4])
