"""The statements of a janitor that has nothing to do."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from pgmem.retention.sweep_ops import TABLES, read_due

pytestmark = pytest.mark.both_forms


@pytest.fixture
def sent(form, monkeypatch):
    """The names of the statements that retention sends."""
    names = []
    twin = form.name == "sync"
    module = importlib.import_module(f"pgmem.{'_sync.' if twin else ''}core.execution")
    cls = module.PoolExecutor if twin else module.AsyncPoolExecutor
    real = cls.execute

    def execute(self, op, *args, **options):
        names.append(op.statement)
        return real(self, op, *args, **options)

    monkeypatch.setattr(cls, "execute", execute)
    return names


async def test_pass_without_work_is_one_statement(form, database_url, sent):
    async with form.memory(database_url) as memory:
        await memory.state.put("k", 1, ttl=60)
        await memory.retention.maintain()
        sent.clear()
        for _ in range(3):
            report = await memory.retention.maintain()
        assert report.swept.complete
    assert sent == ["maintenance_due"] * 3


async def test_only_what_is_due_is_swept(form, database_url, sent):
    async with form.memory(database_url) as memory:
        await memory.retention.maintain()
        await memory.state.put("k", 1, ttl=0.01)
        sent.clear()
        await asyncio.sleep(0.05)
        assert (await memory.retention.maintain()).swept.expired_entries == 1
    assert [name for name in sent if name.startswith("sweep_")] == ["sweep_state"]


def test_every_swept_table_can_be_due():
    due = read_due()
    assert due.parse([(False, False, list(TABLES), False, False)]).tables == list(TABLES)
