"""The demo's own tables, and queries over them and pgmem's tables.

It stands for the tables of an application. It works on a psycopg connection, mostly the
`tx.connection` of a pgmem transaction, and neither opens nor commits one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgmem import Memory
from pgmem.demo.run import Run
from pgmem.demo.scenario import CURRENCY, PAYMENT_LIMIT, Payment, Scenario, Sending
from pgmem.errors import DatabaseFault, PermissionDenied

Connection = psycopg.Connection[Any]

_DEMO_LOCK = 0x706D_6465_6D6F  # "pmdemo": two CREATE … IF NOT EXISTS at once may collide


@cache
def sql(name: str) -> str:
    """Return the text of `sql/<name>.sql`."""
    return resources.files("pgmem.demo").joinpath("sql", f"{name}.sql").read_text("utf-8")


def ask(connection: Connection, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run a SQL file that returns one row. Return the row as a dictionary."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(sql(name).encode(), params)
        return cursor.fetchone() or {}


def prepare(memory: Memory, run: Run, scenario: Scenario) -> None:
    """Make the demo's tables if they are missing, and open the accounts of a run.

    Raises:
        PermissionDenied: The role may not make the tables.
        DatabaseFault: The server refused for another reason.
    """
    try:
        with memory.transaction() as tx:
            tx.connection.execute("SELECT pg_advisory_xact_lock(%s)", [_DEMO_LOCK])
            for statement in sql("bank").split(";\n"):
                if statement.strip():
                    tx.connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDenied(
            f"the role may not make the demo's tables ({error.diag.message_primary}); give it "
            f"CREATE on the database, or leave --url out to use a private server"
        ) from None
    except psycopg.Error as error:
        raise DatabaseFault(
            f"the server refused to make the demo's tables ({error.sqlstate})",
            sqlstate=error.sqlstate,
        ) from None
    _open_accounts(memory, run, scenario)


def _open_accounts(memory: Memory, run: Run, scenario: Scenario) -> None:
    with memory.transaction() as tx:
        tx.connection.execute(
            "INSERT INTO pgmem_demo_bank.runs (run_id, mode, seed, payments)"
            " VALUES (%s, %s, %s, %s)",
            [run.id, run.mode, scenario.seed, scenario.payments],
        )
        for name, opening in scenario.opening.items():
            tx.connection.execute(
                "INSERT INTO pgmem_demo_bank.accounts (run_id, account, opening)"
                " VALUES (%s, %s, %s)",
                [run.id, name, opening],
            )
            tx.state.put(run.account(name), account_value(opening))
        tx.state.put(run.limits, {"payment": PAYMENT_LIMIT})


def account_value(balance: int) -> dict[str, Any]:
    """Return the state value of an account."""
    return {"balance": balance, "currency": CURRENCY}


def record_sending(connection: Connection, run: Run, sending: Sending) -> None:
    """Record what the gateway sent."""
    connection.execute(
        "INSERT INTO pgmem_demo_bank.sendings (run_id, request_id, payment_id, fault)"
        " VALUES (%s, %s, %s, %s)",
        [run.id, sending.request_id, sending.payment.id, sending.fault],
    )


def book(
    connection: Connection, run: Run, payment: Payment, before: tuple[int, int], agent: str
) -> None:
    """Enter a payment into the ledger.

    Args:
        connection: The transaction to write in.
        run: The run.
        payment: The payment.
        before: The balances of sender and receiver that the agent assumes.
        agent: The name of the agent.
    """
    connection.execute(
        "INSERT INTO pgmem_demo_bank.ledger (run_id, payment_id, sender, receiver, amount,"
        " sender_before, receiver_before, booked_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [run.id, payment.id, payment.sender, payment.receiver, payment.amount, *before, agent],
    )
