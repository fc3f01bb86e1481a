"""The summary must be able to fail: each planted wrong is found, in the figure that names it."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmem import Event, Memory, migrate
from pgmem.demo import bank
from pgmem.demo.agents import Notifier, Processor, Validator
from pgmem.demo.gateway import Gateway
from pgmem.demo.run import SCHEMA, Run
from pgmem.demo.scenario import plan
from pgmem.demo.summary import summarize
from tests.support.server import fresh_database


@pytest.fixture(scope="module")
def finished_once(pg_server_url):
    """A database with a run of 30 payments, worked off in this process, event by event."""
    run, scenario = Run.new("shared"), plan(30, seed=4, rate=10_000)
    with fresh_database(pg_server_url) as url:
        migrate.upgrade(url, schema=SCHEMA)
        with Memory(url, schema=SCHEMA) as memory:
            bank.prepare(memory, run, scenario)
            with Gateway(memory, run, scenario) as gateway:
                gateway._send_all()
            for stream, handler in handlers(memory, run):
                for event in memory.events.read(stream, limit=1000):
                    handler(event)
        yield url, run


def handlers(memory, run):
    return (
        (run.incoming, Validator(memory, run)),
        (run.validated, Processor(memory, run, "processor.1/1")),
        (run.outcomes, Notifier(memory, run)),
    )


@pytest.fixture
def finished(pg_server_url, finished_once):
    """A copy of that database, to plant something in."""
    url, run = finished_once
    with (
        fresh_database(pg_server_url, conninfo_to_dict(url)["dbname"]) as copy,
        Memory(copy, schema=SCHEMA) as memory,
    ):
        yield memory, run


def wrong(finished):
    return summarize(*finished).wrong()


def booked(memory, run):
    """Enter a payment into the ledger."""
    with memory.transaction() as tx:
        return tx.connection.execute(
            "SELECT id, payment_id FROM pgmem_demo_bank.ledger WHERE run_id = %s"
            " ORDER BY id DESC LIMIT 1",
            [run.id],
        ).fetchone()


def execute(memory, statement, *params):
    with memory.transaction() as tx:
        assert tx.connection.execute(statement, params).rowcount == 1


def test_an_honest_run_has_nothing_wrong(finished):
    assert wrong(finished) == {}


def test_a_second_ledger_row_is_a_payment_applied_twice(finished):
    memory, run = finished
    execute(
        memory,
        "INSERT INTO pgmem_demo_bank.ledger (run_id, payment_id, sender, receiver, amount,"
        " sender_before, receiver_before, booked_by) SELECT run_id, payment_id, sender, receiver,"
        " amount, sender_before, receiver_before, 'planted' FROM pgmem_demo_bank.ledger"
        " WHERE id = %s",
        booked(memory, run)[0],
    )
    found = wrong(finished)
    assert found["applied_twice"] == 1
    assert found["balances_off"] == 2
    assert found["errors"] == found["manual_work"] == 1
    assert found["booked_on_stale_balance"] == 1


def test_a_changed_balance_does_not_add_up(finished):
    memory, run = finished
    memory.state.update(
        run.account("acc-07"), lambda value: {**value, "balance": value["balance"] + 5}
    )
    assert wrong(finished) == {"balances_off": 1, "money_difference": 5}


def test_a_lost_balance_does_not_add_up(finished):
    memory, run = finished
    memory.state.delete(run.account("acc-07"))
    found = wrong(finished)
    assert found["balances_off"] == 1
    assert found["money_difference"] < 0


def test_a_removed_ledger_row_contradicts_the_event(finished):
    memory, run = finished
    execute(memory, "DELETE FROM pgmem_demo_bank.ledger WHERE id = %s", booked(memory, run)[0])
    found = wrong(finished)
    assert found["contradictory"] == found["manual_work"] == 1
    assert found["balances_off"] == 2


def test_a_removed_mark_is_missed(finished):
    memory, run = finished
    payment_id = booked(memory, run)[1]
    execute(
        memory,
        f"DELETE FROM {SCHEMA}.dedupe WHERE kind = 'work' AND key = %s",
        run.name(f"payment/{payment_id}"),
    )
    assert wrong(finished) == {"booked_without_record": 1}


@pytest.mark.parametrize(
    ("stream", "kind", "figure"),
    [
        ("outcomes", "payment.declined", "contradictory"),
        ("notified", "payment.notified", "told_wrong"),
    ],
)
def test_a_second_end_is_found(finished, stream, kind, figure):
    memory, run = finished
    payload = {"payment_id": booked(memory, run)[1], "outcome": "payment.declined"}
    memory.events.append(getattr(run, stream), Event(type=kind, payload=payload))
    found = wrong(finished)
    assert found[figure] == found["manual_work"] == 1


def test_a_payment_without_an_end_is_found(finished):
    memory, run = finished
    execute(
        memory,
        "INSERT INTO pgmem_demo_bank.sendings (run_id, request_id, payment_id, fault)"
        " VALUES (%s, 'r', 'p-lost', '')",
        run.id,
    )
    assert wrong(finished) == {"without_end": 1, "errors": 1, "manual_work": 1}


def test_an_invalid_payment_that_was_booked_is_found(finished):
    memory, run = finished
    execute(
        memory,
        "UPDATE pgmem_demo_bank.sendings SET fault = 'invalid: planted' WHERE id ="
        " (SELECT min(id) FROM pgmem_demo_bank.sendings WHERE run_id = %s AND payment_id = %s)",
        run.id,
        booked(memory, run)[1],
    )
    assert wrong(finished) == {"invalid_booked": 1, "errors": 1, "manual_work": 1}


def test_a_conflict_of_a_payment_without_an_end_is_not_resolved(finished):
    memory, run = finished
    memory.events.append(
        run.operations, Event(type="payment.conflict", payload={"payment_id": "p-lost"})
    )
    assert wrong(finished) == {"conflicts_unresolved": 1}


def test_work_that_is_delivered_again_changes_nothing(finished):
    memory, run = finished
    before = summarize(memory, run).figures
    for stream, handler in (
        (run.incoming, Validator(memory, run)),
        (run.validated, Processor(memory, run, "processor.2/1")),
        (run.outcomes, Notifier(memory, run)),
    ):
        for event in memory.events.read(stream, limit=1000):
            handler(event)
    after = summarize(memory, run).figures
    assert after["redelivered"] > before["redelivered"] == 0
    assert wrong(finished) == {}
    for name in ("booked", "declined", "invalid_refused"):
        assert after[name] == before[name]


def test_runs_stand_beside_each_other(finished):
    memory, run = finished
    before = summarize(memory, run).figures
    other = Run.new("shared")
    bank.prepare(memory, other, plan(30, seed=4, rate=100))
    assert summarize(memory, other).figures["payments"] == 0
    assert summarize(memory, run).figures == before
