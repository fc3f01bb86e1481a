"""A Redis may want a password or TLS, refuse commands, restart, or go away."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from benchmarks import redis_server
from pgmem.errors import InvalidInput
from pgmem.redis.errors import SourceError, SourceUnavailable
from pgmem.redis.importing import address as module
from pgmem.redis.importing.source import RedisSource, Refused
from tests.system.redis.importing.relay import RedisRelay
from tests.system.redis.importing.support import Importing, fill, numbers


@pytest.fixture
def own_server(tmp_path):
    """A Redis that a test may change, stop and start."""
    server = OwnServer(tmp_path)
    server.start()
    yield server
    server.stop()


class OwnServer:
    def __init__(self, folder):
        self.folder = folder / "redis"
        self.folder.mkdir()
        self.url = f"unix://{self.folder}/redis.sock"
        self.process = None

    def start(self):
        self.process = redis_server.start(redis_server.redis_binary(), self.folder, "strict")
        redis_server.await_redis(redis_server.Redis(self.url), self.process, self.folder / "log")

    def stop(self):
        redis_server.stop(self.process)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def test_answers_are_what_the_server_sent(source, importing):
    source.hset("h", "a", 1)
    with RedisSource(importing.url) as found:
        assert found.call("HGETALL", "h") == [b"a", b"1"]
        assert found.many([("GET", "none"), ("TYPE", "h")], atomic=True) == [None, b"hash"]
        (refused,) = found.many([("GET", "h")])
        assert isinstance(refused, Refused)
        assert "WRONGTYPE" in refused.reason
        with pytest.raises(Refused, match="Redis refused GET: WRONGTYPE"):
            found.call("GET", "h")
        assert found.many([]) == []
        assert found.where == f"{importing.url}?db=0"


def test_a_url_may_ask_for_what_it_likes_answers_stay_raw(source, importing):
    source.set("k", "v")
    with RedisSource(f"{importing.url}?decode_responses=True&protocol=3") as found:
        assert found.call("GET", "k") == b"v"


@pytest.mark.parametrize(
    "url", ["", "http://h", "redis://u:p:q@h:x", "nonsense", "redis://h:99999"]
)
def test_an_invalid_url_is_refused_without_its_password(url):
    with pytest.raises((InvalidInput, SourceUnavailable)) as caught:
        RedisSource(url)
    assert "p:q" not in str(caught.value)


def test_an_absent_server_is_reported_at_once():
    begun = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"redis://127.0.0.1:1/0.*Check that it runs"):
        RedisSource("redis://user:s3cr3t@127.0.0.1:1/0")
    assert time.monotonic() - begun < 5


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(InvalidInput, match=r'pip install "pgmem-agents\[redis\]"'):
        RedisSource("redis://localhost")


def test_a_password_is_asked_for_and_taken(own_server, monkeypatch):
    with RedisSource(own_server.url) as admin:
        admin.call("CONFIG", "SET", "requirepass", "s3cr3t")
        admin.call("ACL", "SETUSER", "bob", "on", ">hush", "+@read", "~*")
    for url in (own_server.url, f"{own_server.url}?password=wr0ng"):
        with pytest.raises(SourceError, match="refused the login") as caught:
            RedisSource(url)
        assert "wr0ng" not in str(caught.value)
        assert "REDISCLI_AUTH" in str(caught.value)
    RedisSource(f"{own_server.url}?password=s3cr3t").close()
    with pytest.raises(SourceError, match="does not let this user run"):
        RedisSource(f"{own_server.url}?username=bob&password=hush")
    monkeypatch.setenv(module.PASSWORD_VARIABLE, "s3cr3t")
    RedisSource(own_server.url).close()


def test_missing_rights_are_named(own_server):
    with RedisSource(own_server.url) as admin:
        admin.call("ACL", "SETUSER", "bob", "on", ">b", "+@all", "-scan", "~*")
    words = r"does not let this user run SCAN.*to run SCAN"
    with (
        RedisSource(f"{own_server.url}?username=bob&password=b") as found,
        pytest.raises(SourceError, match=words),
    ):
        found.call("SCAN", 0)


def test_tls(source, importing, tmp_path):
    with RedisRelay(importing.url, tmp_path) as relay:
        with pytest.raises(SourceUnavailable, match="ssl_ca_certs"):
            RedisSource(relay.url)
        with RedisSource(f"{relay.url}?ssl_ca_certs={relay.certificate}") as found:
            assert found.call("PING") == b"PONG"
        with pytest.raises(SourceUnavailable, match="use rediss:// instead"):
            RedisSource(relay.url.replace("rediss", "redis"))


def test_no_tls_where_it_is_asked_for(source, importing, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)  # it waits for us to say more
    with RedisRelay(importing.url) as relay, pytest.raises(SourceUnavailable, match="use redis://"):
        RedisSource(relay.url.replace("redis", "rediss"))


def test_an_import_through_tls(source, importing, memory, tmp_path):
    fill(source, 500)
    with RedisRelay(importing.url, tmp_path) as relay:
        url = f"{relay.url}?ssl_ca_certs={relay.certificate}"
        assert importing.run(url=url).complete
    assert numbers(memory) == list(range(1, 501))


def test_a_sentinel_and_a_cluster_are_not_imported_from(source, importing, monkeypatch):
    import redis

    answers = {"INFO": b"redis_mode:sentinel\r\nrun_id:x\r\n"}
    execute = redis.Redis.execute_command

    def answer(self, name, *args, **options):
        if name == "CLUSTERED":
            raise redis.exceptions.ResponseError("MOVED 1 127.0.0.1:7001")
        return answers.get(name) or execute(self, name, *args, **options)

    monkeypatch.setattr(redis.Redis, "execute_command", answer)
    with pytest.raises(SourceError, match="is a sentinel"):
        RedisSource(importing.url)
    answers.clear()
    with RedisSource(importing.url) as found, pytest.raises(SourceError, match="of a cluster"):
        found.call("CLUSTERED")


# --- it goes away in the middle ----------------------------------------------------------------


def test_a_lost_connection_is_made_again(source, importing, memory):
    fill(source, 3_000)
    source.hset("h", mapping={f"f{n}": n for n in range(3_000)})
    with RedisRelay(importing.url) as relay, importing.opened(url=relay.url) as importer:
        importer.begin()
        stopping = threading.Event()

        def cut():
            while not stopping.wait(0.02):
                relay.cut()

        thread = threading.Thread(target=cut)
        thread.start()
        try:
            for _ in range(5):
                assert importer.run().complete
        finally:
            stopping.set()
            thread.join()
    assert numbers(memory) == list(range(1, 3_001))
    assert len(memory.state.list(limit=10_000)) == 3_000
    assert any("waiting for it" in words for words in importing.told.words)


def test_an_import_ends_when_redis_stays_away_and_continues_later(source, importing, memory):
    fill(source, 6_000)
    with RedisRelay(importing.url) as relay:
        with importing.opened(url=relay.url, timeout=0.3) as importer:
            importer.begin()
            importer.open_streams_found()
            (stream,) = importer.streams.values()
            stream.drain(most=2_000)
            relay.cut(refuse=True)
            begun = time.monotonic()
            with pytest.raises(SourceUnavailable, match="Run the same command again"):
                stream.drain()
            assert 0.25 < time.monotonic() - begun < 5
        relay.heal()
        assert importing.run(url=relay.url).complete
    assert numbers(memory) == list(range(1, 6_001))


def test_a_redis_that_is_killed_and_started_again(own_server, memory, tmp_path):
    import redis

    with contextlib.closing(redis.Redis.from_url(own_server.url)) as client:
        fill(client, 4_000)
        client.hset("h", mapping={f"f{n}": n for n in range(2_500)})
    importing = Importing(own_server.url, memory, tmp_path)
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        (stream,) = importer.streams.values()
        stream.drain(most=2_000)
        before = importer.context.source.server
        own_server.kill()
        threading.Timer(0.3, own_server.start).start()
        stream.drain()
        importer.finish_pass(importer.new_pass())
        assert importer.context.source.server != before
        assert importer.finished().complete
    assert numbers(memory) == list(range(1, 4_001))
    assert len(memory.state.list(limit=10_000)) == 2_500


def test_a_command_without_an_answer_is_sent_again(source, importing, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    with RedisRelay(importing.url) as relay, RedisSource(relay.url, timeout=5) as found:
        relay.silence()
        threading.Timer(0.5, relay.heal).start()
        assert found.call("PING") == b"PONG"
