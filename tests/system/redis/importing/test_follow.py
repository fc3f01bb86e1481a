"""Following and the cut-over import each acknowledged write once, in order."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest
import redis

from pgmem import Event, Memory
from pgmem.redis import Imports
from pgmem.redis.errors import ImportConflict, SourceError, SourceUnavailable
from pgmem.redis.importing import cutover
from pgmem.redis.importing import follow as module
from pgmem.redis.importing.cutover import cut_over
from pgmem.redis.importing.follow import Follow
from tests.support.options import full, size
from tests.support.waiting import wait_until
from tests.system.redis.importing.relay import RedisRelay
from tests.system.redis.importing.support import fill, numbers, published


@contextlib.contextmanager
def following(importing, **options):
    """Follow in a thread, which has the result in `over` and `error`."""
    stopping = threading.Event()

    class Follower(threading.Thread):
        over = error = None

        def run(self):
            try:
                with importing.opened(**options) as importer:
                    importer.begin()
                    importer.run()
                    self.over = Follow(importer, stopping.is_set).run()
            except BaseException as error:  # The test reads it from `error`.
                self.error = error

    follower = Follower()
    follower.start()
    try:
        yield follower
    finally:
        stopping.set()
        follower.join(30)
        assert not follower.is_alive()


class OldWriter(threading.Thread):
    """Write to Redis as the published code does, and to pgmem after the cut-over.

    Attributes:
        acknowledged: the numbers that Redis or pgmem acknowledged, in their order.
        moved: how many of them pgmem acknowledged.
    """

    def __init__(self, redis_url, database_url, name, rate, more=50):
        super().__init__(name=name)
        self._client = redis.Redis.from_url(redis_url)
        self._database = database_url
        self._pause = 1 / rate
        self._more = more
        self.acknowledged = []
        self.moved = 0
        self.latest = None
        self.refusal = None
        self.halt = threading.Event()

    def run(self):
        n = 0
        begun = time.monotonic()
        while not self.halt.is_set():
            n += 1
            try:
                self._client.xadd("agent:events", {**published(n), "agent_id": self.name})
                self.acknowledged.append(n)
                self._client.hset("agent:state", f"{self.name}:t", json.dumps({"n": n}))
                self._client.sadd("processed:events", f"{self.name}:{n}")
                self.latest = n
            except redis.ResponseError as error:
                self.refusal = str(error)
                return self._go_on(n)
            time.sleep(max(0.0, begun + n * self._pause - time.monotonic()))

    def _go_on(self, n):
        """Write a refused number to pgmem, once the cut-over has ended."""
        with Memory(self._database, agent_id=self.name) as memory:
            while Imports(memory).get("test", "import").detail["phase"] != "cut over":
                assert not self.halt.wait(0.1)
            if self.acknowledged and self.acknowledged[-1] == n:
                n += 1  # the event is there, its state is not: as if it had crashed between the two
            for number in range(n, n + self._more):
                memory.events.append(
                    "agent:events", Event(type="payment.validated", payload={"n": number})
                )
                self.acknowledged.append(number)
                self.moved += 1


class OldMember(threading.Thread):
    """A member of a group, in Redis until that has moved.

    Attributes:
        done: what was acknowledged there: writers and their numbers.
        refusal: why it stopped.
    """

    def __init__(self, redis_url, name):
        super().__init__(name=name)
        self._client = redis.Redis.from_url(redis_url)
        self.done = []
        self.refusal = None

    def run(self):
        try:
            while True:
                found = self._client.xreadgroup(
                    "billing", self.name, {"agent:events": ">"}, count=7, block=100
                )
                for identity, fields in found[0][1] if found else ():
                    self._client.xack("agent:events", "billing", identity)
                    n = json.loads(fields[b"payload"])["n"]
                    self.done.append((fields[b"agent_id"].decode(), n))
        except redis.ResponseError as error:
            self.refusal = str(error)


def test_a_switch_under_load_loses_and_doubles_nothing(source, importing, memory, database_url):
    """500 writes a second, and two members of a group; at full size for a minute."""
    fill(source, size(20_000, 500), "older")
    source.xgroup_create("agent:events", "billing", "0", mkstream=True)
    writers = [
        OldWriter(importing.url, database_url, f"writer-{n}", rate=size(100, 50)) for n in range(5)
    ]
    members = [OldMember(importing.url, f"member-{n}") for n in range(2)]
    for thread in (*writers, *members):
        thread.start()
    try:
        with following(importing) as follower:
            wait_until(lambda: importing.told.lags or follower.error, 60, "the first lag")
            time.sleep(60 if full() else 1.5)
            lags = importing.told.lags[-20:]
            assert follower.error is None
            assert follower.is_alive()
            begun = time.monotonic()
            report, compared = importing.cut_over(verify=True)
            print(f"the cut-over and the comparison took {time.monotonic() - begun:.1f} s")
            follower.join(30)
            assert (follower.over, follower.error) == (True, None)
        assert compared.equal, compared.examples
        assert report.complete
    finally:
        for writer in writers:
            writer.join(90)
            writer.halt.set()
        for member in members:
            member.join(30)
    events = memory.events.read("agent:events", limit=100_000)
    for writer in writers:
        assert not writer.is_alive()
        assert writer.moved == 50
        assert "WRONGTYPE" in writer.refusal
        found = [event.payload["n"] for event in events if event.agent_id == writer.name]
        assert found == writer.acknowledged == list(range(1, len(found) + 1))
        latest = memory.state.get(f"agent:state:{writer.name}:t").value["n"]
        assert latest >= writer.latest
    assert len(events) == sum(len(writer.acknowledged) for writer in writers)
    marked = {m.key for m in Imports(memory).known_records(limit=100_000)}
    assert {f"processed:events:{w.name}:{n}" for w in writers for n in range(1, w.latest + 1)} <= (
        marked
    )
    assert numbers(memory, "older") == list(range(1, size(20_000, 500) + 1))
    assert importing.refused() == []
    check_members(memory, members, events)
    print(f"lag before the cut-over, in entries: {[entries for entries, _ in lags]}")
    assert min(entries for entries, _ in lags) < 100


def check_members(memory, members, events):
    """Check that pgmem delivers what was not acknowledged in Redis, once, and nothing else."""
    done = [one for member in members for one in member.done]
    for member in members:
        assert "WRONGTYPE" in member.refusal
    group = memory.groups.get("agent:events:billing")
    here = []
    while deliveries := group.read("new", limit=1_000):
        here += [(one.event.agent_id, one.event.payload["n"]) for one in deliveries]
        group.ack(deliveries)
    everything = [(event.agent_id, event.payload["n"]) for event in events]
    assert len(done) > 0
    assert sorted([*done, *here]) == sorted(everything)


def test_what_comes_while_it_follows_is_there_soon(source, importing, memory, monkeypatch):
    monkeypatch.setattr(module, "BETWEEN_PASSES", 0.05)
    source.hset("h", mapping={"a": 1, "b": 1})
    with following(importing) as follower:
        wait_until(lambda: importing.told.lags or follower.error)
        fill(source, 3)  # a stream that is new
        wait_until(lambda: numbers(memory) == [1, 2, 3] or follower.error, 10, "a new stream")
        fill(source, 1, first=4)
        wait_until(lambda: len(numbers(memory)) == 4 or follower.error, 10, "its next event")
        source.hset("h", "a", 2)
        source.hdel("h", "b")
        source.sadd("s", "m")
        wait_until(
            lambda: (
                (
                    [(e.key, e.value) for e in memory.state.list()] == [("h:a", 2)]
                    and [m.key for m in Imports(memory).known_records()] == ["s:m"]
                )
                or follower.error
            ),
            10,
            "the changed entries",
        )
        assert follower.error is None
        last = importing.told.lags[-1]
    assert last == (0, 0.0)
    assert follower.over is False


def test_only_one_follows_and_the_other_says_so(source, importing, memory):
    fill(source, 3)
    with following(importing) as first:
        wait_until(lambda: importing.told.lags or first.error)
        with following(importing) as second:
            wait_until(lambda: importing.told.lags[1:] or second.error)
            fill(source, 3, first=4)
            wait_until(lambda: first.error or second.error, 10, "one of the two")
            assert isinstance(first.error, ImportConflict)
            assert "another process has opened it since" in str(first.error)
            wait_until(lambda: len(numbers(memory)) == 6)
    assert second.error is None
    assert numbers(memory) == [1, 2, 3, 4, 5, 6]


def test_the_lag_is_reported(source, importing):
    """Check the number of unread entries, and the time that they span."""
    fill(source, 10)
    with importing.opened() as importer:
        importer.begin()
        importer.open_streams_found()
        (stream,) = importer.streams.values()
        stream._count = 4
        stream.drain(most=4)
        importer.context.writer.wait()
        Follow(importer)._tell_lag()
        importer.finished()
    assert importing.told.lags == [(6, 0.006)]


def test_a_redis_that_goes_away_while_it_is_followed(source, importing, memory):
    fill(source, 3)
    with (
        RedisRelay(importing.url) as relay,
        following(importing, url=relay.url, timeout=1.0) as follower,
    ):
        wait_until(lambda: importing.told.lags or follower.error)
        relay.cut()
        fill(source, 3, first=4)
        wait_until(lambda: len(numbers(memory)) == 6 or follower.error, 10, "the rest")
        relay.cut(refuse=True)
        wait_until(lambda: follower.error is not None, 10, "an error")
    assert isinstance(follower.error, SourceUnavailable)


def test_a_stream_that_becomes_something_else_is_listed_and_the_others_are_followed(
    source, importing, memory
):
    fill(source, 3)
    fill(source, 1, "other")
    with following(importing) as follower:
        wait_until(lambda: importing.told.lags or follower.error)
        source.delete("agent:events")
        source.lpush("agent:events", 1)
        fill(source, 4, "other", first=2)
        wait_until(lambda: len(numbers(memory, "other")) == 5 or follower.error, 10)
    assert follower.error is None
    ((kind, key, _, why),) = importing.refused()
    assert (kind, key) == ("key", "agent:events")
    # It is seen when its page is read, or when all streams are waited for.
    assert "it is a list now" in why or "WRONGTYPE" in why


# --- the cut-over ------------------------------------------------------------------------------


def test_late_writes_are_refused_and_the_data_is_kept(source, importing, memory):
    fill(source, 5)
    source.hset("agent:state", "v:t", 1)
    source.sadd("processed:events", "e1")
    source.expire("processed:events", 1_000)
    report, compared = importing.cut_over(verify=True)
    assert report.complete
    assert compared.equal
    for late in (
        lambda: source.xadd("agent:events", published(9)),
        lambda: source.hset("agent:state", "v:t", 2),
        lambda: source.sadd("processed:events", "e2"),
        lambda: source.xread({"agent:events": "0"}),
    ):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            late()
    assert source.get("agent:events").startswith(b"moved to pgmem: 20")
    assert source.xlen("agent:events:before-pgmem") == 5
    assert 990 < source.ttl("processed:events:before-pgmem") <= 1_000
    assert Imports(memory).get("test", "import").detail["phase"] == "cut over"
    with pytest.raises(ImportConflict, match=r"is cut over.*--reverse to go back"):
        importing.run()
    # Retry, it finds what came late under new keys, and changes nothing else.
    source.sadd("once", "late")
    fill(source, 2, "late")
    importing.cut_over()
    assert numbers(memory, "late") == [1, 2]
    assert "once:late" in {record.key for record in Imports(memory).known_records()}
    assert numbers(memory) == [1, 2, 3, 4, 5]


def test_writes_right_before_the_fence_are_imported(source, importing, memory, monkeypatch):
    fill(source, 3)
    source.hset("h", "f", 1)
    fence_all = cutover._fence_all

    def late(importer, *kinds):
        if "stream" in kinds and source.type("agent:events") == b"stream":
            fill(source, 2, first=4)
            source.hset("h", "f", 2)
        return fence_all(importer, *kinds)

    monkeypatch.setattr(cutover, "_fence_all", late)
    _, compared = importing.cut_over(verify=True)
    assert compared.equal
    assert numbers(memory) == [1, 2, 3, 4, 5]
    assert memory.state.get("h:f").value == 2


def test_a_key_that_was_named_and_is_not_there_is_fenced_too(source, importing):
    importing.cut_over(streams=["orders"], hashes=["h"], dedupe=["processed"])
    for key in ("orders", "h", "processed"):
        assert source.type(key) == b"string"
    importing.reverse(streams=["orders"], hashes=["h"], dedupe=["processed"])
    assert source.keys() == []


def test_a_key_created_again_behind_the_fence_is_not_overwritten(source, importing):
    fill(source, 2)
    importing.cut_over()
    source.delete("agent:events")
    fill(source, 3, first=7)
    with pytest.raises(SourceError, match=r"nothing was fenced.*was renamed.*and there is a new"):
        importing.cut_over()
    assert importing.reverse()["blocked"] == 1
    assert any("still fenced" in why for *_, why in importing.refused())
    assert (source.xlen("agent:events"), source.xlen("agent:events:before-pgmem")) == (3, 2)


def test_an_unequal_comparison_does_not_end_the_cut_over(source, importing, memory, monkeypatch):
    fill(source, 3)
    importing.run()
    with importing.opened() as importer:
        monkeypatch.setattr(
            "pgmem.redis.importing.verify._same_event", lambda given, event: event.payload["n"] != 2
        )
        _, compared = cut_over(importer, verify=True)
    assert (compared.equal, compared.different) == (False, 1)
    assert compared.examples == ["different: agent:events 2-0"]
    phase = Imports(memory).get("test", "import").detail["phase"]
    assert phase == "cutting over"
    with pytest.raises(ImportConflict, match="Run it with --cut-over again"):
        importing.run()
    monkeypatch.undo()
    assert importing.cut_over(verify=True)[1].equal
