"""The arms on Redis: what the right one promises, and what is wrong with the published one.

No race here is left to luck: whoever must be first is held until the others are where they must be.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis

from benchmarks import redis_server
from benchmarks.arms import published, right
from benchmarks.arms.published import ConcurrentModificationError, Published
from benchmarks.arms.records import (
    ClaimHeld,
    Conflict,
    Entry,
    Event,
    LeaseLost,
    Outcome,
    Payment,
)
from benchmarks.arms.right import Right

RACERS = 8
WAIT = 30


@pytest.fixture(scope="module")
def server():
    # Durability is no subject here, and each sync would cost the tests a while.
    with redis_server.redis("none") as server:
        yield server


@pytest.fixture
def client(server):
    """What the tests look into the server with."""
    with contextlib.closing(server.client()) as client:
        client.flushall()
        yield client


@pytest.fixture
def memory(server, client):
    with contextlib.closing(right.connect(server.url)) as connection:
        yield Right(connection, agent_id="tester")


@pytest.fixture
def shared(server, client):
    """One for several threads."""
    with contextlib.closing(right.connect(server.url, threads=True)) as connection:
        yield Right(connection, agent_id="tester")


@pytest.fixture
def make_published(server, client):
    with contextlib.ExitStack() as stack:

        def make(*args, kind=None, **kwargs):
            connection = (
                published.connect(server.url)
                if kind is None
                else kind.from_url(server.url, socket_timeout=None)
            )
            return Published(stack.enter_context(contextlib.closing(connection)), *args, **kwargs)

        yield make


def at_once(work, times=RACERS):
    """The results of `work(n)` in as many threads, begun together."""
    gate = threading.Barrier(times)

    def begin(number):
        gate.wait(WAIT)
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


# Redis done right: events


def test_an_event_and_the_latest_state_are_written_together(memory, client):
    client.config_resetstat()
    first = memory.write_event("a", "seen", {"n": 1})
    second = memory.write_event("a", "seen", {"n": 2})
    assert memory.latest("a", "seen") == {"n": 2}
    assert memory.latest("b", "seen") is None
    assert [tuple(event) for event in memory.read()] == [
        (first, "seen", {"n": 1}, "a", None, None),
        (second, "seen", {"n": 2}, "a", None, None),
    ]
    assert [event.id for event in memory.read(first)] == [second]
    assert [event.id for event in memory.read(count=1)] == [first]
    assert client.info("commandstats")["cmdstat_exec"]["calls"] == 2


def test_a_writer_that_dies_before_the_end_has_written_nothing(memory, client, monkeypatch):
    def dies(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.client.Pipeline, "hset", dies)
    with pytest.raises(KeyboardInterrupt):
        memory.write_event("a", "seen", {})
    assert client.keys() == []


@pytest.mark.parametrize("transaction", [False, True])
def test_a_batch_is_appended_in_its_order(memory, transaction):
    batch = [Event("t", {"n": n}, "a") for n in range(300)]
    ids = memory.append(batch, transaction=transaction)
    assert [(event.id, event.payload["n"]) for event in memory.read()] == list(
        zip(ids, range(300), strict=True)
    )


def test_nobody_gets_between_the_events_of_a_transaction(shared):
    at_once(lambda who: [shared.append([Event("t", who)] * 20, transaction=True) for _ in range(5)])
    found = [event.payload for event in shared.read()]
    assert len(found) == RACERS * 100
    batches = [set(found[start : start + 20]) for start in range(0, len(found), 20)]
    assert all(len(batch) == 1 for batch in batches)


def test_trimming_takes_what_the_caller_has_done_with_and_no_more(memory):
    ids = memory.append([Event("t", n) for n in range(250)])
    assert memory.trim(ids[150]) in range(151)  # whole nodes
    assert memory.trim(ids[150], exact=True) >= 0
    assert memory.read()[0].id == ids[150]
    memory.write_event("a", "t", 1, min_id=ids[-1])
    assert {event.id for event in memory.read()} >= {ids[-1]}
    assert len(memory.read()) < 101


# Redis done right: state


def test_an_entry_has_a_value_and_a_version(memory):
    assert memory.get("k") is None
    assert [memory.put("k", {"a": ":1:"}), memory.put("k", [2])] == [1, 2]
    memory.put("l", None)
    assert memory.get("k") == Entry([2], 2)
    assert memory.get_many(["k", "missing", "l"]) == {"k": Entry([2], 2), "l": Entry(None, 1)}
    assert [(e.type, e.key, e.version, e.payload, e.agent_id) for e in memory.read()] == [
        ("state.put", "k", 1, {"a": ":1:"}, "tester"),
        ("state.put", "k", 2, [2], "tester"),
        ("state.put", "l", 1, None, "tester"),
    ]


def test_a_write_with_another_version_changes_nothing_and_says_what_is_there(memory):
    with pytest.raises(Conflict) as conflict:
        memory.compare_and_set("k", 1, 1)
    assert conflict.value.current is None
    assert memory.compare_and_set("k", 1, 0) == 1
    with pytest.raises(Conflict) as conflict:
        memory.compare_and_set("k", 2, 0)
    assert conflict.value.current == memory.get("k") == Entry(1, 1)
    assert len(memory.read()) == 1


def test_of_those_who_expect_one_version_one_wins(shared):
    for version in range(10):

        def write(who, expected=version):
            try:
                return shared.compare_and_set("k", who, expected)
            except Conflict:
                return None

        assert Counter(at_once(write)) == {version + 1: 1, None: RACERS - 1}
    assert [event.version for event in shared.read()] == list(range(1, 11))


def test_no_increment_is_lost_and_none_starves(shared):
    at_once(lambda _: [shared.update("k", lambda n: n + 1, default=0) for _ in range(10)])
    assert shared.get("k") == Entry(RACERS * 10, RACERS * 10)
    assert [event.payload for event in shared.read()] == list(range(1, RACERS * 10 + 1))


def test_an_update_that_loses_goes_by_what_it_lost_to(memory, client):
    memory.put("k", 1)
    seen = []

    def change(value):
        seen.append(value)
        if len(seen) == 1:
            memory.put("k", 10)
        return value + 1

    before = client.info("commandstats")["cmdstat_hget"]["calls"]
    assert memory.update("k", change) == Entry(11, 3)
    assert seen == [1, 10]
    # One read by `update`; the three scripts read once each.
    assert client.info("commandstats")["cmdstat_hget"]["calls"] - before == 4
    with pytest.raises(Conflict):
        memory.update("k", lambda n: memory.put("k", n + 1), max_retries=1)


# Redis done right: once


def test_racers_run_once_and_all_get_the_result(shared):
    runs, held = [], []

    def work():
        with pytest.raises(ClaimHeld):
            shared.claim("k")  # another one who comes while this runs
        held.append(True)
        runs.append(1)
        return {"n": len(runs)}

    outcomes = at_once(lambda _: shared.run_once("k", work))
    assert (len(runs), held) == (1, [True])
    assert Counter(outcome.first for outcome in outcomes) == {True: 1, False: RACERS - 1}
    assert all(outcome.result == {"n": 1} for outcome in outcomes)


def test_who_waits_in_vain_is_told(memory):
    memory.claim("k")
    with pytest.raises(ClaimHeld):
        memory.run_once("k", dict, timeout=0.02)


def test_work_that_fails_is_free_for_the_next(memory):
    with pytest.raises(ZeroDivisionError):
        memory.run_once("k", lambda: 1 / 0)
    assert memory.run_once("k", lambda: 1) == Outcome(True, 1)


def test_work_whose_process_died_is_taken_over_after_the_lease(memory):
    dead = memory.claim("k", lease=0.02)
    assert memory.run_once("k", lambda: "again", timeout=WAIT) == Outcome(True, "again")
    with pytest.raises(LeaseLost):
        memory.complete(dead, "late")
    memory.release(dead)
    assert memory.run_once("k", lambda: "no") == Outcome(False, "again")


def test_a_late_worker_does_not_release_or_end_anothers_claim(memory, client):
    late = memory.claim("k")
    client.delete("once:k")  # its lease ran out
    now = memory.claim("k")
    memory.release(late)
    with pytest.raises(LeaseLost):
        memory.complete(late, "late")
    memory.complete(now, "mine")
    assert memory.claim("k").result == "mine"


def test_marks_go_by_themselves(memory, client):
    memory.run_once("k", lambda: 1, ttl=100)
    memory.append_once("l", Event("t", 1), ttl=100)
    assert 0 < client.ttl("once:k") <= 100
    assert 0 < client.ttl("once:l") <= 100


def test_an_append_with_a_key_is_done_once(shared):
    outcomes = at_once(lambda who: shared.append_once("k", Event("t", who, "a")))
    (event,) = shared.read()
    assert Counter(outcome.first for outcome in outcomes) == {True: 1, False: RACERS - 1}
    assert {outcome.result for outcome in outcomes} == {event.id}
    assert shared.latest("a", "t") is None


def accounts(memory, **balances):
    for name, balance in balances.items():
        memory.put(name, {"balance": balance, "currency": "VND"}, stream="opening")


def pay(memory, key, amount, sender="a", receiver="b"):
    return memory.pay(
        key, sender, receiver, amount, payload={"id": key}, result={"by": key}, outcomes="outcomes"
    )


def test_a_payment_moves_money_once(shared):
    accounts(shared, a=100, b=0)
    paid = at_once(lambda _: pay(shared, "p", 30))
    assert Counter(payment.first for payment in paid) == {True: 1, False: RACERS - 1}
    assert {payment.funds for payment in paid} == {True}
    assert shared.get("a") == Entry({"balance": 70, "currency": "VND"}, 2)
    assert shared.get("b") == Entry({"balance": 30, "currency": "VND"}, 2)
    assert [(e.key, e.version, e.payload["balance"]) for e in shared.read()] == [
        ("a", 2, 70),
        ("b", 2, 30),
    ]
    (outcome,) = shared.read(stream="outcomes")
    assert outcome.type == "payment.processed"
    assert outcome.payload == {"id": "p", "sender_before": 100, "receiver_before": 0}


def test_racing_payments_neither_lose_money_nor_overdraw(shared):
    accounts(shared, a=100, b=0)
    paid = at_once(lambda n: pay(shared, f"p{n}", 30))
    assert Counter(payment.funds for payment in paid) == {True: 3, False: RACERS - 3}
    found = shared.get_many(["a", "b"])
    assert [found[name].value["balance"] for name in "ab"] == [10, 90]
    types = Counter(event.type for event in shared.read(stream="outcomes"))
    assert types == {"payment.processed": 3, "payment.declined": RACERS - 3}


def test_large_balances_stay_exact(memory):
    accounts(memory, a=2**53 - 1, b=0)
    assert pay(memory, "p", 2**53 - 2) == Payment(True, True, {"by": "p"})
    found = memory.get_many(["a", "b"])
    assert [found[name].value["balance"] for name in "ab"] == [1, 2**53 - 2]


def test_a_payment_that_cannot_be_leaves_nothing(memory, client):
    accounts(memory, a=100)
    with pytest.raises(redis.ResponseError, match="NOACCOUNT"):
        pay(memory, "p", 1)
    with pytest.raises(ValueError, match="two accounts"):
        pay(memory, "p", 1, receiver="a")
    assert sorted(client.keys()) == [b"opening", b"state"]


# Redis done right: groups, and the client


def test_each_event_goes_to_one_of_the_group(shared):
    shared.create_group("g")
    shared.create_group("g")
    ids = shared.append([Event("t", n) for n in range(200)])

    def consume(who):
        got = []
        while events := shared.receive("g", f"c{who}", 5):
            shared.ack("g", [event.id for event in events])
            got += [event.id for event in events]
        return got

    assert sorted(one for got in at_once(consume) for one in got) == sorted(ids)
    assert shared.receive("g", "c0", timeout=0.01) == []
    assert shared.reclaim("g", "c0", 0).events == []


def test_what_a_dead_consumer_had_is_taken_over(memory):
    memory.create_group("g")
    ids = memory.append([Event("t", n) for n in range(3)])
    assert len(memory.receive("g", "dead")) == 3
    assert memory.ack("g", ids[:1]) == 1
    assert memory.reclaim("g", "next", WAIT).events == []
    found = memory.reclaim("g", "next", 0)
    assert [event.id for event in found.events] == ids[1:]
    assert (found.cursor, found.deleted) == (b"0-0", [])


def test_what_was_trimmed_under_a_consumer_is_told(memory):
    memory.create_group("g")
    ids = memory.append([Event("t", n) for n in range(3)])
    memory.receive("g", "dead")
    memory.trim(ids[1], exact=True)
    assert memory.reclaim("g", "next", 0).deleted == ids[:1]


def answers_lost(client, once):
    """Let one answer of the client's connection get lost on its way."""
    connection = client.connection_pool.make_connection()
    read = connection.read_response

    def lose(*args, **kwargs):
        answer = read(*args, **kwargs)
        if once:
            once.pop()
            raise redis.ConnectionError("the answer is lost")
        return answer

    connection.read_response = lose
    client.connection_pool.make_connection = lambda: connection


def test_the_right_client_does_not_send_again_what_it_knows_nothing_of(server, client):
    with contextlib.closing(right.connect(server.url, threads=True)) as connection:
        once = []
        answers_lost(connection, once)
        connection.ping()
        once.append(1)
        with pytest.raises(redis.ConnectionError):
            connection.xadd("events", {"n": 1})
    assert client.xlen("events") == 1


def test_a_client_that_retries_appends_twice(server, client):
    """redis-py's own default, if the client is not made from a URL."""
    path = server.url.removeprefix("unix://")
    with contextlib.closing(redis.Redis(unix_socket_path=path)) as connection:
        once = []
        answers_lost(connection, once)
        connection.ping()
        once.append(1)
        Published(connection).write_event("a", "t", 1)
    assert client.xlen("agent:events") == 2


# The approach as published


def test_the_published_code_does_what_its_article_shows(make_published, client):
    arm = make_published(lambda event: {"done": event["id"]})
    arm.write_event("a", "t", {"n": 1})
    arm.write_event("a", "t", {"n": 2})
    ((_, entries),) = arm.read_events()
    assert [fields[b"payload"] for _, fields in entries] == [b'{"n": 1}', b'{"n": 2}']
    assert set(entries[0][1]) == {b"agent_id", b"event_type", b"payload", b"timestamp"}
    assert b"+" not in entries[0][1][b"timestamp"]
    assert arm.get_latest_state("a", "t") == {"n": 2}
    assert arm.get_latest_state("a", "other") == {}
    assert arm.process_event({"id": "1"}) == {"done": "1"}
    assert arm.process_event({"id": "1"}) == {"status": "skipped", "reason": "already_processed"}
    assert sorted(client.keys()) == [b"agent:events", b"agent:state", b"processed:events"]


def test_a_prefix_keeps_scenarios_apart(make_published, client):
    arm = make_published(lambda _: 1, prefix="x:")
    arm.write_event("a", "t", 1)
    arm.process_event({"id": "1"})
    arm.update_with_version("r", dict)
    keys = client.keys()
    assert len(keys) == 4
    assert all(key.startswith(b"x:") for key in keys)


def test_its_versioned_update_succeeds_once_and_never_again(make_published):
    arm = make_published()
    assert arm.update_with_version("r", lambda _: {"n": 1}) == {"n": 1, "version": 1}
    seen = []

    def change(current):
        seen.append(current)
        return {"n": 2}

    start = time.monotonic()
    with pytest.raises(ConcurrentModificationError):
        arm.update_with_version("r", change)
    # Nobody else was there. It slept 0.1, 0.2 and 0.4 s, the last time for nothing.
    assert seen == [{b"n": b"1", b"version": b"1"}] * 3
    assert time.monotonic() - start >= 0.7


class DiesAtHset(redis.Redis):
    def hset(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_its_update_that_dies_halfway_bars_the_resource_and_leaves_no_data(make_published, client):
    with pytest.raises(KeyboardInterrupt):
        make_published(kind=DiesAtHset).update_with_version("r", lambda _: {"n": 1})
    assert client.hgetall("resource:r") == {b"version": b"1"}
    with pytest.raises(ConcurrentModificationError):
        make_published().update_with_version("r", lambda _: {"n": 1}, max_retries=1)


def test_its_racers_all_do_the_work(make_published):
    gate = threading.Barrier(RACERS)

    def work(_):
        return gate.wait(WAIT)  # Nobody goes on before all are at work.

    arm = make_published(work)
    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(lambda _: arm.process_event({"id": "p"}), range(RACERS)))
    assert sorted(results) == list(range(RACERS))


def test_its_writer_that_dies_halfway_leaves_an_event_without_state(make_published, client):
    with pytest.raises(KeyboardInterrupt):
        make_published(kind=DiesAtHset).write_event("a", "t", {"n": 1})
    assert client.xlen("agent:events") == 1
    assert make_published().get_latest_state("a", "t") == {}


def test_its_latest_state_may_be_of_an_event_that_is_not_the_latest(make_published):
    added, written = threading.Event(), threading.Event()

    class SlowToHset(redis.Redis):
        def hset(self, *args, **kwargs):
            added.set()
            assert written.wait(WAIT)
            return super().hset(*args, **kwargs)

    slow, other = make_published(kind=SlowToHset), make_published()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.write_event, "a", "t", {"n": 1})
        assert added.wait(WAIT)
        other.write_event("a", "t", {"n": 2})
        written.set()
        first.result(WAIT)
    ((_, entries),) = other.read_events()
    assert entries[-1][1][b"payload"] == b'{"n": 2}'
    assert other.get_latest_state("a", "t") == {"n": 1}


def test_its_log_drops_what_nobody_has_read_without_a_word(make_published, client):
    arm = make_published()
    with client.pipeline(transaction=False) as pipe:
        for _ in range(10_150):
            pipe.xadd(arm.stream_key, {"payload": "0"})
        first = pipe.execute()[0]
    for number in range(100):
        arm.write_event("a", "t", number)
    # Approximate: whole nodes of 100 go, so a little more than 10,000 stay.
    assert 10_000 <= client.xlen(arm.stream_key) < 10_150
    ((_, entries),) = arm.read_events("0", count=1)
    assert entries[0][0] != first


def test_its_reading_times_out_with_a_client_of_today(server, client):
    # 5 s is the default of redis-py 8; that it is, is checked without waiting for so long.
    with contextlib.closing(server.client()) as of_today:
        connection = of_today.connection_pool.make_connection()
        assert redis.VERSION < (8,) or connection.socket_timeout == 5
    hasty = redis.Redis.from_url(server.url, socket_timeout=0.05)
    with contextlib.closing(hasty), pytest.raises(redis.TimeoutError):
        Published(hasty).read_events("0")


def test_its_reading_waits_with_a_client_that_may(make_published):
    arm = make_published()
    assert make_published(block=1).read_events() == []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(arm.read_events)
        arm.write_event("a", "t", 1)
        ((_, entries),) = reading.result(WAIT)
    assert len(entries) == 1


def test_its_snapshots_pile_up_and_do_not_say_of_when_they_are(make_published, database_url):
    with psycopg.connect(database_url) as database:
        database.execute(published.SNAPSHOTS_TABLE)
        arm = make_published(database=database)
        arm.write_event("a", "t", {"n": 1})
        arm.take_snapshot()
        arm.write_event("a", "t", {"n": 2})
        arm.take_snapshot()
        rows = database.execute(
            "SELECT key, value FROM agent_snapshots ORDER BY created_at"
        ).fetchall()
        database.execute("DROP TABLE agent_snapshots")
    # The whole state again each time, and no id of an event to go on from.
    assert rows == [("a:t", '{"n": 1}'), ("a:t", '{"n": 2}')]
