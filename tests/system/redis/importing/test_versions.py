"""Every feature of the import works on every version of Redis and Valkey, or is refused clearly."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

from pgmem import Event
from pgmem.redis import Imports
from pgmem.redis.errors import SourceError
from tests.support.waiting import wait_until
from tests.system.redis.importing.relay import RedisRelay
from tests.system.redis.importing.servers import FIELD_ENDS, VERSIONS, client_of, program, running
from tests.system.redis.importing.support import Importing, fill, numbers
from tests.system.redis.importing.test_follow import following


@pytest.fixture(scope="module", params=VERSIONS)
def server(request):
    """A server of each version."""
    path = program(request.param)
    with (
        tempfile.TemporaryDirectory(prefix="pgmem-redis-") as folder,
        running(path, Path(folder)) as url,
    ):
        yield request.param, url


@pytest.fixture
def version(server):
    """The version of the server."""
    return server[0]


@pytest.fixture
def source(server):
    """A client of the empty server."""
    with contextlib.closing(client_of(server[1])) as client:
        client.flushall()
        for user in client.acl_users():
            if user != "default":
                client.acl_deluser(user)
        yield client


@pytest.fixture
def importing(server, source, memory, tmp_path):
    """Imports from the server into `memory`."""
    return Importing(server[1], memory, tmp_path)


def fill_all(source):
    """Add a stream with a group, hashes, a set and strings. Return the number of items."""
    fill(source, 20)
    source.xgroup_create("agent:events", "billing", "0")
    source.xreadgroup("billing", "a", {"agent:events": ">"}, count=3)
    source.hset("agent:state", mapping={"v:ok": '{"n": 1}', "v:no": "2"})
    source.hset("resource:1", mapping={"version": "1"})
    source.sadd("processed:events", "e1", "e2")
    source.set("once:a", "1", ex=600)
    return 20 + (1 + 3) + 2 + 1 + 2 + 1


def test_everything_is_imported_and_compared(source, importing):
    count = fill_all(source)
    assert importing.run().complete
    found = importing.compared()
    assert (found.equal, found.same, found.refused) == (True, count, 0)


def test_ends_are_imported_or_listed(source, importing, memory, version):
    source.hset("session", mapping={"a": "1", "b": "2"})
    source.expire("session", 100)
    fill(source, 1, "chat")
    source.expire("chat", 100)
    source.hset("resource:1", mapping={"a": "1", "b": "2"})
    source.hset("fields", mapping={"a": "1", "b": "2"})
    if version in FIELD_ENDS:
        for key in ("fields", "resource:1"):
            source.execute_command("HPEXPIRE", key, 50_000, "FIELDS", 1, "a")
    importing.run()
    ends = {entry.key: entry.ttl for entry in Imports(memory).known_entries()}
    assert 90 < ends["session:a"] <= 100
    listed = {(kind, key, name) for kind, key, name, _ in importing.refused()}
    if version in FIELD_ENDS:
        assert 40 < ends["fields:a"] <= 50
        assert listed == {("end", "chat", ""), ("end", "resource:1", "a")}
    else:
        assert listed == {("end", "chat", "")}
    assert ends["fields:b"] is None
    assert importing.compared().equal


def test_a_cut_over_and_the_way_back(source, importing, memory, version):
    fill_all(source)
    source.hset("session", mapping={"step": "1", "user": "anna"})
    source.expire("session", 3_600)
    _, compared = importing.cut_over(verify=True)
    assert compared.equal
    memory.events.append("agent:events", Event(type="t", payload={"n": 21}))
    memory.state.update("session:step", lambda step: step + 1)
    memory.state.put("agent:state:v:ok", {"n": 2}, ttl=500)
    memory.state.delete("agent:state:v:no")
    memory.dedupe.run_once("processed:events:e3", lambda: None)
    group = memory.groups.get("agent:events:billing")
    group.ack(group.read("new", limit=5))
    written = importing.reverse()
    assert (written["events"], written["entries"], written["deleted"]) == (1, 2, 1)
    assert source.xlen("agent:events") == 21
    assert source.hgetall("session") == {b"step": b"2", b"user": b"anna"}
    assert 3_500 < source.ttl("session") <= 3_600
    assert source.hgetall("agent:state") == {b"v:ok": b'{"n":2}'}
    assert source.smembers("processed:events") == {b"e1", b"e2", b"e3"}
    if version in FIELD_ENDS:
        (left,) = source.execute_command("HPTTL", "agent:state", "FIELDS", 1, "v:ok")
        assert 450_000 < left <= 500_000
    else:
        assert written["without their end"] == 1
        assert ("end", "agent:state", "v:ok") in [line[:3] for line in importing.refused()]
    importing.run()
    assert importing.compared().equal


def test_it_is_followed(source, importing, memory):
    fill(source, 3)
    with following(importing) as follower:
        wait_until(lambda: importing.told.lags or follower.error)
        fill(source, 2, first=4)
        wait_until(lambda: len(numbers(memory)) == 5 or follower.error, 10)
        importing.cut_over()
        follower.join(30)
    assert (follower.over, follower.error) == (True, None)


def test_a_user_another_database_and_resp3(source, importing, memory):
    source.execute_command("ACL", "SETUSER", "anna", "on", ">s3cret", "~*", "+@all")
    with contextlib.closing(client_of(f"{importing.url}?db=3")) as other:
        fill(other, 5)
        other.hset("h", "a", 1)
    fill(source, 1, "not this one")
    url = importing.url.replace("unix://", "unix://anna:s3cret@") + "?db=3&protocol=3"
    _, compared = importing.cut_over(url=url, verify=True)
    assert compared.equal
    assert (numbers(memory), memory.state.get("h:a").value) == ([1, 2, 3, 4, 5], 1)
    memory.state.put("h:a", 2)
    importing.reverse(url=url)
    with contextlib.closing(client_of(f"{importing.url}?db=3")) as other:
        assert other.hgetall("h") == {b"a": b"2"}
        assert other.xlen("agent:events") == 5
    assert source.xlen("not this one") == 1


def test_through_tls(source, importing, tmp_path, memory):
    fill(source, 5)
    with RedisRelay(importing.url, tmp_path) as relay:
        url = f"{relay.url}?ssl_ca_certs={relay.certificate}"
        assert importing.run(url=url).complete
    assert numbers(memory) == [1, 2, 3, 4, 5]


def test_keys_that_the_user_may_not_read_are_listed(source, importing, memory):
    fill(source, 3, "app:events")
    source.hset("app:h", "a", "1")
    source.set("other:secret", "x")
    source.hset("other:h", "a", "b")
    rights = ("+@read", "+@transaction", "+@connection", "+info")
    source.execute_command("ACL", "SETUSER", "imp", "on", ">pw", "~app:*", *rights)
    url = importing.url.replace("unix://", "unix://imp:pw@")
    report = importing.run(url=url)
    assert numbers(memory, "app:events") == [1, 2, 3]
    listed = {(kind, key) for kind, key, *_ in importing.refused()}
    assert listed == {("key", "other:secret"), ("key", "other:h")}
    assert not report.complete
    of_app = {"streams": ["app:*"], "hashes": ["app:*"], "dedupe": ["app:*"]}
    assert importing.run(url=url, **of_app).complete
    assert importing.compared(url=url, **of_app).equal


def test_a_right_that_is_missing_is_named_before_anything_is_done(
    source, importing, memory, version
):
    fill_all(source)
    denied = ["scan", "pttl", "xinfo", "hgetall", "smismember"]
    if version in FIELD_ENDS:
        denied.append("hpttl")
    for name in denied:
        source.execute_command("ACL", "SETUSER", name, "on", ">pw", "~*", "+@all", f"-{name}")
        url = importing.url.replace("unix://", f"unix://{name}:pw@")
        with pytest.raises(SourceError, match=rf"does not let .* run {name.upper()}.*Grant"):
            importing.run(url=url)
    assert (numbers(memory), Imports(memory).list()) == ([], [])
