"""Typed events and generic results pass mypy --strict and pyright in users' code."""

from __future__ import annotations

import pytest

from tests.system.typing.test_examples import _complaints, configure

USE = """
from typing import Any, assert_type
from pydantic import BaseModel
from pgmem import Append, Appended, AsyncMemory, Event, Memory, RecordedEvent, Subscription

class Amount(BaseModel):
    amount: int

class Received(Event, type="payment.received"):
    amount: int
    currency: str = "EUR"

def use(memory: Memory) -> None:
    assert_type(memory.events.append("s", Received(amount=3)), Appended)
    memory.events.append("s", Received(amount=3, agent_id="x", metadata={"a": 1}))
    memory.events.append("s", Event(type="t", payload=1))
    assert_type(memory.events.append("s", [Received(amount=1)]), list[Appended])
    memory.events.append_all([Append("a", Received(amount=1)), Append("b", [Event(type="t")], 3)])
    assert_type(memory.events.read(model=Amount), list[RecordedEvent[Amount]])
    assert_type(memory.events.read(), list[RecordedEvent[Any]])
    one = memory.events.get(1, model=Amount)
    if one is not None:
        assert_type(one.payload, Amount)
    with memory.events.subscribe(model=Amount, durable="b") as events:
        for event in events:
            assert_type(event, RecordedEvent[Amount])
            events.commit(event)
    with memory.events.subscribe() as plain:
        assert_type(plain, Subscription[RecordedEvent[Any]])

def handle(event: RecordedEvent) -> None:
    print(event.payload["a"])

async def use_async(memory: AsyncMemory) -> None:
    assert_type(await memory.events.read_stream("s", model=Amount), list[RecordedEvent[Amount]])
"""

WRONG = """
from pgmem import Event

class Received(Event, type="payment.received"):
    amount: int

Received()
Received(amount="x")
Event(payload=1)
"""

CHECKERS = [
    ("mypy", "--strict", "--python-version", "3.11", "--follow-imports=silent", "."),
    ("pyright", "--project", "."),
]


@pytest.mark.parametrize("command", CHECKERS, ids=["mypy", "pyright"])
def test_typed_events_and_models_have_their_types(tmp_path, command):
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "wrong.py").write_text(WRONG)
    configure(tmp_path)
    found = _complaints(tmp_path, *command)
    assert not [line for line in found if "wrong.py" not in line]
    assert [n for n in (7, 8, 9) if any(f"wrong.py:{n}:" in line for line in found)] == [7, 8, 9]
