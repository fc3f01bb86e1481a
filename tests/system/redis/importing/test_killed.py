"""Killed on the way, as often as one likes: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import itertools
import json
import random
import time

import pytest

from pgmem import Event
from pgmem._sync.core.execution import PoolExecutor
from pgmem.redis import Imports
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing import cutover, groups, streams
from pgmem.redis.importing.source import RedisSource
from tests.support.options import size
from tests.support.processes import seed
from tests.system.redis.importing.support import fill, numbers
from tests.system.redis.importing.worker import started, until_it_is_done


def fill_all(source, entries, fields, marks):
    """Fill a Redis with two streams, a hash, a set and strings."""
    for start in range(0, entries, 10_000):
        fill(source, min(10_000, entries - start), first=start + 1)
    with source.pipeline(transaction=False) as pipe:
        for n in range(fields):
            pipe.hset("agent:state", f"v:t{n}", n)
            if n % 5_000 == 4_999:
                pipe.execute()
        for n in range(marks):
            if n % 2:
                pipe.sadd("processed:events", f"e{n}")
            else:
                pipe.set(f"once:{n}", n, nx=True, ex=86_400)
            if n % 5_000 == 4_999:
                pipe.execute()
        pipe.expire("processed:events", 86_400)
        pipe.execute()


def test_an_import_killed_three_times_brings_in_everything_once(
    source, importing, memory, database_url
):
    """At full size, with 1,000,000 entries, 100,000 fields, 50,000 keys and three groups.

    The groups have 30,000 pending entries.
    """
    rng = random.Random(seed())
    entries, fields, marks = size(1_000_000, 10_000), size(100_000, 2_000), size(50_000, 1_000)
    fill_all(source, entries, fields, marks)
    held = fill_groups(source, entries, rng)
    total = entries + fields + marks
    for share in sorted(rng.uniform(0, 0.9) for _ in range(3)):
        worker = started(database_url, importing.url, importing.file, "import", page=500)
        deadline = time.monotonic() + 600
        while worker.running() and done(memory) < share * total:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        worker.kill()
        worker.process.join()
        assert done(memory) < total, "it was over before it was killed"
    started(database_url, importing.url, importing.file, "import").finish(600)
    begun = time.monotonic()
    found = importing.compared()
    print(f"{total} items; comparing took {time.monotonic() - begun:.0f} s")
    in_groups = 3 + sum(map(len, held.values()))
    assert (found.equal, found.same, found.only_here) == (True, total + in_groups, 0), found
    assert memory.events.count("agent:events") == entries
    assert numbers(memory) == list(range(1, entries + 1))
    for place, (group, numbers_held) in enumerate(held.items(), 1):
        following = entries * place // 5 + entries // 50 + 1
        check_group(memory, group, numbers_held, following)


def fill_groups(source, entries, rng):
    """Make groups that have read a part and acknowledged some. Return what is pending."""
    held = {}
    for place, group in enumerate(("billing", "audit", "mail"), 1):
        source.xgroup_create("agent:events", group, "0")
        source.execute_command(
            "XGROUP", "SETID", "agent:events", group, f"{entries * place // 5}-0"
        )
        found = source.xreadgroup(group, "a", {"agent:events": ">"}, count=entries // 50)
        given = [identity for identity, _ in found[0][1]]
        done = rng.sample(given, len(given) // 2)
        for at in range(0, len(done), 5_000):
            source.xack("agent:events", group, *done[at : at + 5_000])
        again = sorted(set(given) - set(done))[: entries // 1_000]
        source.xclaim("agent:events", group, "b", 0, again)
        held[group] = {int(n.split(b"-")[0]): 1 + (n in again) for n in set(given) - set(done)}
    return held


def check_group(memory, group, held, following):
    """Check that each pending entry is delivered once more and counted, then a new one."""
    members = memory.groups.get(f"agent:events:{group}")
    found = {}
    while len(found) < len(held):
        deliveries = members.read("m", limit=1_000)
        assert found.keys().isdisjoint(one.event.payload["n"] for one in deliveries)
        found |= {one.event.payload["n"]: one.attempts - 1 for one in deliveries}
        members.ack(deliveries)
    assert found == held
    (new,) = members.read("m", limit=1)
    assert (new.event.payload["n"], new.attempts) == (following, 1)


def done(memory):
    return sum(part.done for part in Imports(memory).list("test"))


class Died(BaseException):
    """The simulated death of a process."""


@pytest.fixture
def dies_after(monkeypatch):
    """Makes the next run die after a number of statements and commands.

    An odd number dies before the last one is sent, an even one after its answer arrived.
    """
    number = left = 0

    def counting(call):
        def counted(*args, **more):
            nonlocal left
            left -= 1
            if number and (left < 0 or (left == 0 and number % 2)):
                raise Died
            answer = call(*args, **more)
            if number and left == 0:
                raise Died
            return answer

        return counted

    def set_(after):
        nonlocal number, left
        number = left = after

    monkeypatch.setattr(RedisSource, "_run", counting(RedisSource._run))
    monkeypatch.setattr(PoolExecutor, "execute", counting(PoolExecutor.execute))
    monkeypatch.setattr(cutover, "GRACE", 0.01)
    monkeypatch.setattr(streams, "PAGE", 40)
    monkeypatch.setattr(groups, "STEP", 15)
    yield set_
    set_(0)


def dying_all_the_way(run, dies_after):
    """Run until one run reaches its end. Each run dies a step later than the one before."""
    deaths = 0
    for after in itertools.count(1, size(1, 5)):
        dies_after(after)
        try:
            run()
        except Died:
            deaths += 1
        except ImportConflict as error:
            if "has not been cut over" not in str(error):
                raise
            return deaths  # it had died with nothing left to do
        else:
            return deaths
        finally:
            dies_after(0)
    raise AssertionError


def test_a_switch_and_the_way_back_dying_at_each_step(source, importing, memory, dies_after):
    begin(source)
    deaths = dying_all_the_way(importing.run, dies_after)
    write_on(source)
    deaths += dying_all_the_way(importing.cut_over, dies_after)
    work_in_pgmem(source, memory)
    deaths += dying_all_the_way(importing.reverse, dies_after)
    assert deaths > size(60, 12)
    check_redis(source)
    go_on_in_redis(source)
    dying_all_the_way(importing.run, dies_after)
    check_pgmem(memory, importing)


@pytest.mark.parametrize("round_", range(size(10, 1)))
def test_a_switch_and_the_way_back_killed_anywhere(round_, source, importing, memory, database_url):
    """Kill real processes with `kill -9`."""
    rng = random.Random(seed())
    at = (memory, database_url, importing.url, importing.file)
    begin(source)
    deaths = size(8, 2)
    killed = until_it_is_done(*at, "import", rng=rng, deaths=deaths)
    write_on(source)
    killed += until_it_is_done(*at, "cut over", rng=rng, deaths=deaths)
    work_in_pgmem(source, memory)
    killed += until_it_is_done(*at, "reverse", rng=rng, deaths=deaths)
    assert killed > 0
    check_redis(source)
    go_on_in_redis(source)
    until_it_is_done(*at, "import", rng=rng, deaths=1)
    check_pgmem(memory, importing)


def begin(source):
    fill(source, 100)
    fill(source, 50, "orders")
    source.xgroup_create("agent:events", "billing", "0")
    source.xreadgroup("billing", "a", {"agent:events": ">"}, count=60)
    source.xack("agent:events", "billing", *(f"{n}-0" for n in range(1, 21)))
    source.hset("agent:state", mapping={f"v:t{n}": n for n in range(60)})
    source.hset("resource:1", mapping={"version": 1})
    source.sadd("processed:events", *range(30))
    source.set("once:a", 1, ex=3_600)


def write_on(source):
    fill(source, 20, first=101)
    source.xreadgroup("billing", "b", {"agent:events": ">"}, count=30)
    source.xack("agent:events", "billing", *(f"{n}-0" for n in range(21, 41)))
    source.hset("agent:state", "v:t0", 99)


def work_in_pgmem(source, memory):
    assert numbers(memory) == list(range(1, 121))
    assert source.type("agent:events") == b"string"
    for n in range(121, 161):
        memory.events.append("agent:events", Event(type="t", payload={"n": n}, agent_id="a"))
    memory.state.put("agent:state:v:t1", "ours")
    memory.state.put("agent:state:v:new", "new")
    memory.state.delete("agent:state:v:t2")
    memory.state.put("resource:1", {"version": "2"})
    memory.dedupe.run_once("processed:events:ours", lambda: None)
    group = memory.groups.get("agent:events:billing")
    handed = [*group.read("m", limit=50), *group.read("m", limit=40)]
    by_number = {delivery.event.payload["n"]: delivery for delivery in handed}
    assert sorted(by_number) == list(range(41, 131))
    open_ = (50, 95, 125)
    group.ack([delivery for n, delivery in by_number.items() if n not in open_])
    by_number[50].nack(delay=0)


def check_redis(source):
    assert [fields[b"payload"] for _, fields in source.xrange("agent:events")] == [
        *(b'{"n": %d}' % n for n in range(1, 121)),
        *(b'{"n":%d}' % n for n in range(121, 161)),
    ]
    assert source.xlen("orders") == 50
    state = source.hgetall("agent:state")
    assert (state[b"v:t0"], state[b"v:t1"], state[b"v:new"]) == (b"99", b'"ours"', b'"new"')
    assert b"v:t2" not in state
    assert len(state) == 60
    assert source.hgetall("resource:1") == {b"version": b"2"}
    assert source.smembers("processed:events") == {b"ours", *(b"%d" % n for n in range(30))}
    assert source.get("once:a") == b"1"
    assert not list(source.scan_iter("*:before-pgmem"))
    assert pending(source) == {50: 2, 95: 1, 125: 1}


def numbered(fields):
    return json.loads(fields[b"payload"])["n"]


def pending(source):
    """Return the deliveries of the pending entries in Redis, by number."""
    found = {}
    for one in source.xpending_range("agent:events", "billing", "-", "+", 999):
        ((_, fields),) = source.xrange("agent:events", one["message_id"], one["message_id"])
        found[numbered(fields)] = one["times_delivered"]
    return found


def events_of(memory):
    return memory.events.read("agent:events", limit=1_000)


def go_on_in_redis(source):
    """Let the old writers write again, and the old members continue."""
    ((_, entries),) = source.xreadgroup("billing", "c", {"agent:events": ">"}, count=5)
    assert [numbered(fields) for _, fields in entries] == list(range(131, 136))
    source.xack("agent:events", "billing", "95-0", *(identity for identity, _ in entries[1:]))
    source.xadd("agent:events", {"event_type": "t", "payload": '{"n": 161}'})
    source.hset("agent:state", "v:t1", 7)


def check_pgmem(memory, importing):
    assert numbers(memory) == list(range(1, 162))
    assert memory.state.get("agent:state:v:t1").value == 7
    group = memory.groups.get("agent:events:billing")
    numbered_here = {event.position: event.payload["n"] for event in events_of(memory)}
    open_ = {numbered_here[one.position]: one.attempts for one in group.pending()}
    assert open_ == {50: 2, 125: 1, 131: 1}
    assert group.lag() == 161 - 135
    assert importing.compared().equal
    assert importing.refused() == []
