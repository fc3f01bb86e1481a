"""Typed entries, `KEEP` and the verbs of a transaction pass mypy --strict and pyright."""

from __future__ import annotations

import pytest

from tests.system.typing.test_events import CHECKERS
from tests.system.typing.test_examples import _complaints, configure

USE = """
from datetime import timedelta
from typing import Any, assert_type
from pydantic import BaseModel
from pgmem import KEEP, AsyncMemory, Memory, RecordedEvent, StateEntry, Transaction

class Account(BaseModel):
    balance: int = 0

def deposit(account: Account | None) -> Account:
    return Account(balance=account.balance + 5 if account else 5)

def use(memory: Memory) -> None:
    assert_type(memory.state.get("a"), StateEntry[Any] | None)
    assert_type(memory.state.get("a", model=Account, refresh=True), StateEntry[Account] | None)
    assert_type(memory.state.get_many(["a"], model=Account), dict[str, StateEntry[Account]])
    assert_type(memory.state.list(model=Account), list[StateEntry[Account]])
    found = memory.state.search("a", where={"n": 1}, order="updated_at", model=Account)
    assert_type(found, list[StateEntry[Account]])
    assert_type(memory.state.keys("a", separator=":", depth=1), list[str])
    assert_type(memory.state.history("a", model=Account), list[RecordedEvent[Account]])
    memory.state.update("a", deposit, model=Account, ttl=timedelta(hours=1))
    with memory.leases.hold("job") as lease:
        memory.state.compare_and_set("a", 1, expected_version=1, ttl=KEEP, fence=lease)
        memory.state.compare_and_set("a", 1, expected_version=2, ttl=None)
    folded = memory.folds.load("sum", model=Account)
    if folded is not None:
        assert_type(folded.value, Account)

def show(entry: StateEntry) -> str:
    return f"{entry.key} {entry.ttl} {entry.created_at}"

async def use_async(memory: AsyncMemory) -> None:
    assert_type(await memory.state.get("a", model=Account), StateEntry[Account] | None)
"""

WRONG = """
from pgmem import KEEP, Memory, Transaction

def wrong(memory: Memory, tx: Transaction) -> None:
    memory.state.put("a", 1, ttl=KEEP)
    memory.state.search("a", order="value")
    tx.state.watch("a")
    tx.state.snapshots.take()
    tx.folds.fold(None)
"""


@pytest.mark.parametrize("command", CHECKERS, ids=["mypy", "pyright"])
def test_entries_have_their_types_and_a_transaction_only_its_verbs(tmp_path, command):
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "wrong.py").write_text(WRONG)
    configure(tmp_path)
    found = _complaints(tmp_path, *command)
    assert not [line for line in found if "wrong.py" not in line]
    lines = range(5, 10)
    assert [n for n in lines if any(f"wrong.py:{n}:" in line for line in found)] == list(lines)
