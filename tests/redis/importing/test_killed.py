"""Killed on the way, as often as one likes: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from pgmem import Event
from pgmem._sync.runners import PoolRunner
from pgmem.errors import ImportConflict
from pgmem.importing import cutover, streams
from pgmem.importing.source import RedisSource
from tests.redis.importing.support import fill, numbers
from tests.redis.importing.worker import started, until_it_is_done
from tests.support.options import size
from tests.support.processes import seed


def fill_all(source, entries, fields, marks):
    """A Redis of some size: two streams, a hash, a set, strings."""
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
    """At full size: 1,000,000 entries, 100,000 fields, 50,000 idempotency keys."""
    rng = random.Random(seed())
    entries, fields, marks = size(1_000_000, 10_000), size(100_000, 2_000), size(50_000, 1_000)
    fill_all(source, entries, fields, marks)
    total = entries + fields + marks
    for share in sorted(rng.random() for _ in range(3)):
        worker = started(database_url, importing.url, importing.file, "import", page=500)
        deadline = time.monotonic() + 600
        while worker.running() and done(memory) < share * total:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        worker.kill()
        worker.process.join()
        assert done(memory) < total, "it was over before it was killed"
    started(database_url, importing.url, importing.file, "import").finish(600)
    found = importing.compared()
    assert (found.equal, found.same, found.only_here) == (True, total, 0), found.examples
    assert memory.events.count("agent:events") == entries
    assert numbers(memory) == list(range(1, entries + 1))


def done(memory):
    return sum(part.done for part in memory.imports.list("test"))


class Died(BaseException):
    """As good as dead: whatever is still run comes to nothing."""


@pytest.fixture
def dies_after(monkeypatch):
    """Makes the next run die after so many statements and commands; odd numbers die before the
    last one is sent, even ones when its answer has come and nobody has heard of it. 0: never."""
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
    monkeypatch.setattr(PoolRunner, "run", counting(PoolRunner.run))
    monkeypatch.setattr(cutover, "GRACE", 0.01)
    monkeypatch.setattr(streams, "PAGE", 40)
    yield set_
    set_(0)


def dying_all_the_way(run, dies_after):
    """Run something until it has once come to its end, each time a step further than before."""
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
    """The same with real processes and `kill -9`."""
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
    source.hset("agent:state", mapping={f"v:t{n}": n for n in range(60)})
    source.hset("resource:1", mapping={"version": 1})
    source.sadd("processed:events", *range(30))
    source.set("once:a", 1, ex=3_600)


def write_on(source):
    fill(source, 20, first=101)
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


def go_on_in_redis(source):
    """The old writers write again."""
    source.xadd("agent:events", {"event_type": "t", "payload": '{"n": 161}'})
    source.hset("agent:state", "v:t1", 7)


def check_pgmem(memory, importing):
    assert numbers(memory) == list(range(1, 162))
    assert memory.state.get("agent:state:v:t1").value == 7
    assert importing.compared().equal
    assert importing.refused() == []
