"""The way back after a cut-over under load loses and doubles nothing."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter

from pgmem import Event, Memory
from tests.support.options import full, size
from tests.support.waiting import wait_until
from tests.system.redis.importing.support import fill, published
from tests.system.redis.importing.test_follow import OldMember, OldWriter, following

STREAM = "agent:events"


class NewWriter(threading.Thread):
    """Write to pgmem: an event, the state and the work that is done, in one transaction.

    Attributes:
        acknowledged: the numbers that pgmem acknowledged, in their order.
    """

    def __init__(self, database_url, name, first, rate):
        super().__init__(name=name)
        self._database = database_url
        self._pause = 1 / rate
        self._next = first
        self.acknowledged = []
        self.halt = threading.Event()

    def run(self):
        begun, done = time.monotonic(), 0
        with Memory(self._database, agent_id=self.name) as memory:
            while not self.halt.is_set():
                n = self._next
                with memory.transaction() as tx:
                    tx.events.append(STREAM, Event(type="payment.validated", payload={"n": n}))
                    tx.state.put(f"agent:state:{self.name}:t", {"n": n})
                    tx.dedupe.run_once(f"processed:events:{self.name}:{n}", lambda: None)
                self.acknowledged.append(n)
                self._next += 1
                done += 1
                time.sleep(max(0.0, begun + done * self._pause - time.monotonic()))


class NewMember(threading.Thread):
    """A member of the group in pgmem that acknowledges most of what it gets."""

    def __init__(self, database_url, name):
        super().__init__(name=name)
        self._database = database_url
        self.done = []
        self.halt = threading.Event()

    def run(self):
        with Memory(self._database) as memory:
            group = memory.groups.get(f"{STREAM}:billing")
            while not self.halt.is_set():
                for one in group.read(self.name, limit=7, timeout=0.1):
                    n = one.event.payload["n"]
                    if n % 50:  # the rest is open when it goes back
                        group.ack([one])
                        self.done.append((one.event.agent_id, n))


def stop(*threads):
    for thread in threads:
        thread.halt.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_the_way_back_under_load_loses_and_doubles_nothing(source, importing, memory, database_url):
    """500 writes a second before and after the cut-over; at full size for half a minute each."""
    seconds = 30 if full() else 1.5
    names = [f"writer-{n}" for n in range(5)]
    source.xgroup_create(STREAM, "billing", "0", mkstream=True)
    old = [OldWriter(importing.url, database_url, name, rate=100) for name in names]
    old_members = [OldMember(importing.url, f"member-{n}") for n in range(2)]
    for thread in (*old, *old_members):
        thread.start()
    with following(importing) as follower:
        wait_until(lambda: importing.told.lags or follower.error, 60, "the first lag")
        time.sleep(seconds)
        stop(*old)
        importing.cut_over(verify=True)
        follower.join(30)
    for member in old_members:
        member.join(30)
    acknowledged = {writer.name: list(writer.acknowledged) for writer in old}
    new = [
        NewWriter(database_url, name, first=len(acknowledged[name]) + 1, rate=100) for name in names
    ]
    new_members = [NewMember(database_url, f"new-{n}") for n in range(2)]
    for thread in (*new, *new_members):
        thread.start()
    time.sleep(seconds)
    stop(*new, *new_members)
    written = importing.reverse()
    for writer in new:
        assert len(writer.acknowledged) > size(1_000, 20)
        acknowledged[writer.name] += writer.acknowledged
    assert written["events"] == sum(len(writer.acknowledged) for writer in new)
    assert (written.get("left"), written.get("blocked")) == (None, None)
    check_redis(source, names, acknowledged)
    done = [one for member in (*old_members, *new_members) for one in member.done]
    check_group(source, done, acknowledged)
    # The old writers go on, and are followed again.
    source.xadd(STREAM, {**published(1_000_000), "agent_id": "last"})
    importing.run()
    assert importing.compared().equal
    total = sum(map(len, acknowledged.values()))
    assert memory.events.count(STREAM) == total + 1
    print(f"{total} writes, {written['events']} of them in pgmem")


def check_redis(source, names, acknowledged):
    """Check that each acknowledged write is in Redis once, in its writer's order."""
    found = {name: [] for name in names}
    for _, fields in source.xrange(STREAM):
        found[fields[b"agent_id"].decode()].append(json.loads(fields[b"payload"])["n"])
    assert found == acknowledged
    for name in names:
        assert json.loads(source.hget("agent:state", f"{name}:t")) == {"n": acknowledged[name][-1]}
    members = {f"{name}:{n}".encode() for name in names for n in acknowledged[name]}
    assert source.smembers("processed:events") == members


def check_group(source, done, acknowledged):
    """Check that the group in Redis has what no member has acknowledged, once each."""
    entries = dict(source.xrange(STREAM))
    there = [one["message_id"] for one in source.xpending_range(STREAM, "billing", "-", "+", 10**6)]
    while page := source.xreadgroup("billing", "late", {STREAM: ">"}, count=1_000):
        there += [identity for identity, _ in page[0][1]]
    left = [
        (entries[identity][b"agent_id"].decode(), json.loads(entries[identity][b"payload"])["n"])
        for identity in there
    ]
    wanted = Counter((name, n) for name, numbers in acknowledged.items() for n in numbers)
    assert Counter([*done, *left]) == wanted


def test_a_stream_and_its_namesake_go_back_to_themselves(source, importing, memory):
    """Write the group `c` of `a:b` to `a:b`, and not as `b:c` to `a`."""
    fill(source, 2, "a")
    fill(source, 2, "a:b")
    source.xgroup_create("a:b", "c", "0")
    importing.cut_over()
    importing.reverse()
    assert source.xinfo_groups("a") == []
    assert [group["name"] for group in source.xinfo_groups("a:b")] == [b"c"]
