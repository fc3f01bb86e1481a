"""Test the promises of Redis done right, among rivals and after a crash.

No race depends on luck: the client that must be first is held until the others are where they must
be.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import orjson
import pytest
import redis

from benchmarks.arms import right
from benchmarks.arms.published import Published
from benchmarks.arms.records import (
    ClaimHeld,
    Conflict,
    Entry,
    Event,
    LeaseLost,
    Outcome,
)
from benchmarks.arms.right import Right

RACERS = 8
WAIT = 30


@pytest.fixture
def memory(server, client):
    with contextlib.closing(right.connect(server.url)) as connection:
        yield Right(connection, agent_id="tester")


@pytest.fixture
def shared(server, client):
    """Return one memory for several threads."""
    with contextlib.closing(right.connect(server.url, threads=True)) as connection:
        yield Right(connection, agent_id="tester")


def at_once(work, times=RACERS):
    """Return the results of `work(n)` in `times` threads that begin together."""
    gate = threading.Barrier(times)

    def begin(number):
        gate.wait(WAIT)
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


# Events


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


def test_no_other_event_is_between_those_of_a_transaction(shared):
    at_once(lambda who: [shared.append([Event("t", who)] * 20, transaction=True) for _ in range(5)])
    found = [event.payload for event in shared.read()]
    assert len(found) == RACERS * 100
    batches = [set(found[start : start + 20]) for start in range(0, len(found), 20)]
    assert all(len(batch) == 1 for batch in batches)


def test_trimming_removes_only_older_entries(memory):
    ids = memory.append([Event("t", n) for n in range(250)])
    assert memory.trim(ids[150]) in range(151)  # whole nodes
    assert memory.trim(ids[150], exact=True) >= 0
    assert memory.read()[0].id == ids[150]
    memory.write_event("a", "t", 1, min_id=ids[-1])
    assert {event.id for event in memory.read()} >= {ids[-1]}
    assert len(memory.read()) < 101


# State


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


def test_write_with_another_version_changes_nothing_and_returns_the_entry(memory):
    with pytest.raises(Conflict) as conflict:
        memory.compare_and_set("k", 1, 1)
    assert conflict.value.current is None
    assert memory.compare_and_set("k", 1, 0) == 1
    with pytest.raises(Conflict) as conflict:
        memory.compare_and_set("k", 2, 0)
    assert conflict.value.current == memory.get("k") == Entry(1, 1)
    assert len(memory.read()) == 1


def test_one_of_several_writers_with_the_same_version_wins(shared):
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


def test_update_that_loses_a_race_continues_with_the_winners_entry(memory, client):
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


# Once


def test_racers_run_once_and_all_get_the_result(shared):
    runs, held = [], []

    def work():
        with pytest.raises(ClaimHeld):
            shared.claim("k")  # another caller that comes while this runs
        held.append(True)
        runs.append(1)
        return {"n": len(runs)}

    outcomes = at_once(lambda _: shared.run_once("k", work))
    assert (len(runs), held) == (1, [True])
    assert Counter(outcome.first for outcome in outcomes) == {True: 1, False: RACERS - 1}
    assert all(outcome.result == {"n": 1} for outcome in outcomes)


def test_waiting_for_work_times_out(memory):
    memory.claim("k")
    with pytest.raises(ClaimHeld):
        memory.run_once("k", dict, timeout=0.02)


def test_failed_work_can_be_claimed_again(memory):
    with pytest.raises(ZeroDivisionError):
        memory.run_once("k", lambda: 1 / 0)
    assert memory.run_once("k", lambda: 1) == Outcome(True, 1)


def test_work_of_a_dead_process_is_taken_over_after_the_lease(memory):
    dead = memory.claim("k", lease=0.02)
    assert memory.run_once("k", lambda: "again", timeout=WAIT) == Outcome(True, "again")
    with pytest.raises(LeaseLost):
        memory.complete(dead, "late")
    memory.release(dead)
    assert memory.run_once("k", lambda: "no") == Outcome(False, "again")


def test_late_worker_cannot_release_or_complete_another_claim(memory, client):
    late = memory.claim("k")
    client.delete("once:k")  # its lease ran out
    now = memory.claim("k")
    memory.release(late)
    with pytest.raises(LeaseLost):
        memory.complete(late, "late")
    memory.complete(now, "mine")
    assert memory.claim("k").result == "mine"


def test_records_expire(memory, client):
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


class Payment(NamedTuple):
    first: bool
    funds: bool
    result: Any


def pay(memory, key, amount, sender="a", receiver="b"):
    call = memory.pay_call(
        key, sender, receiver, amount, payload={"id": key}, result={"by": key}, outcomes="outcomes"
    )
    ((first, text),) = memory.together([call])
    return Payment(bool(first), **orjson.loads(text))


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


def test_refused_payment_changes_nothing(memory, client):
    accounts(memory, a=100)
    with pytest.raises(redis.ResponseError, match="NOACCOUNT"):
        pay(memory, "p", 1)
    with pytest.raises(ValueError, match="two accounts"):
        pay(memory, "p", 1, receiver="a")
    assert sorted(client.keys()) == [b"opening", b"state"]


def test_calls_in_one_round_trip_each_take_effect_once(memory):
    accounts(memory, a=100, b=0)
    payment = memory.pay_call("p", "a", "b", 30, payload={"id": "p"}, result=None)
    append = memory.append_once_call("k", Event("t", 1, "a"), stream="log")
    answers = memory.together([payment, append, payment, append])
    assert [bool(first) for first, _ in answers] == [True, True, False, False]
    assert memory.get("a").value["balance"] == 70
    assert [event.payload for event in memory.read(stream="log")] == [1]


# Groups, and the client


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


def test_deliveries_are_ended_and_more_received_at_once(memory):
    memory.create_group("g")
    assert memory.left("g") == 0
    ids = memory.append([Event("t", n) for n in range(5)])
    assert memory.left("g") == 5
    assert [event.id for event in memory.receive("g", "c", 2)] == ids[:2]
    ended, found = memory.exchange("g", "c", ids[:2], 2)
    assert (ended, [event.payload for event in found]) == (2, [2, 3])
    assert memory.left("g") == 3
    # Acknowledging closed deliveries changes nothing; available events return without a wait.
    ended, found = memory.exchange("g", "c", ids[:3], 10, timeout=5)
    assert (ended, [event.id for event in found]) == (1, ids[4:])
    assert memory.exchange("g", "c", ids[3:], timeout=0.01) == (2, [])
    assert memory.left("g") == 0
    with pytest.raises(LookupError, match="no group other"):
        memory.left("other")


def test_deliveries_of_a_dead_consumer_are_taken_over(memory):
    memory.create_group("g")
    ids = memory.append([Event("t", n) for n in range(3)])
    assert len(memory.receive("g", "dead")) == 3
    assert memory.ack("g", ids[:1]) == 1
    assert memory.reclaim("g", "next", WAIT).events == []
    found = memory.reclaim("g", "next", 0)
    assert [event.id for event in found.events] == ids[1:]
    assert (found.cursor, found.deleted) == (b"0-0", [])


def test_trimmed_deliveries_are_reported(memory):
    memory.create_group("g")
    ids = memory.append([Event("t", n) for n in range(3)])
    memory.receive("g", "dead")
    memory.trim(ids[1], exact=True)
    assert memory.reclaim("g", "next", 0).deleted == ids[:1]


def answers_lost(client, once):
    """Lose an answer of the client's connection on its way."""
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


def test_right_client_does_not_retry_calls_with_an_unknown_outcome(server, client):
    with contextlib.closing(right.connect(server.url, threads=True)) as connection:
        once = []
        answers_lost(connection, once)
        connection.ping()
        once.append(1)
        with pytest.raises(redis.ConnectionError):
            connection.xadd("events", {"n": 1})
    assert client.xlen("events") == 1


def test_a_client_that_retries_appends_twice(server, client):
    """Test the default of redis-py for a client that is not made from a URL."""
    path = server.url.removeprefix("unix://")
    with contextlib.closing(redis.Redis(unix_socket_path=path)) as connection:
        once = []
        answers_lost(connection, once)
        connection.ping()
        once.append(1)
        Published(connection).write_event("a", "t", 1)
    assert client.xlen("agent:events") == 2
