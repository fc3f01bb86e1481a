"""The fixtures of `pgmem.testing`, in runs of pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TESTS = """
import asyncio
import pytest
from pgmem import Event

@pytest.mark.parametrize("n", range(4))
def test_memory_is_empty(memory, n):
    assert memory.events.count() == 0
    assert memory.state.create("k", n).version == 1
    memory.events.append("s", Event(type="t"))

def test_async_memory(async_memory):
    async def use():
        async with async_memory as memory:
            assert (await memory.state.create("k", 1)).version == 1
    asyncio.run(use())

def test_both_see_one_database(memory, async_memory):
    memory.state.put("k", 1)
    async def use():
        async with async_memory as other:
            return (await other.state.get("k")).value
    assert asyncio.run(use()) == 1

def test_server(pgmem_server_url):
    with open("servers", "a") as file:
        print(pgmem_server_url, file=file)

def test_server_again(pgmem_server_url):
    test_server(pgmem_server_url)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_each_test_has_an_empty_memory_on_one_server(tmp_path, workers):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pgmem.testing"]\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers,
         "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "8 passed" in run.stdout
    assert len(set((tmp_path / "servers").read_text().split("\n")) - {""}) == 1
