"""The generator of the sync modules. No server: the real ruff runs on a small package."""

from __future__ import annotations

import generate_sync
import pytest
from generate_sync import RefusedError

READER = '''\
"""Reads. An AsyncReader is an async context manager."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import small.events.ops
from small.core.concurrency import AsyncLock, async_sleep, maybe_await
from small.events import ops
from small.events.buffer import AsyncBuffer


class AsyncReader:
    """An AsyncReader reads.

    >>> async with AsyncReader() as reader:
    ...     await reader.read()
    """

    def __init__(self, lock: AsyncLock, fn: Callable[[], int | Awaitable[Any]]) -> None:
        self.lock = lock

    async def __aenter__(self) -> None:
        async with self.lock, ops.LIMIT:
            await async_sleep(0)

    async def read(self) -> AsyncIterator[int]:
        async for row in AsyncBuffer():
            yield (await maybe_await(row))[0]
'''


@pytest.fixture
def package(tmp_path):
    """A package with one async module that uses another, and one that is not async."""
    files = {
        "events/reader.py": READER,
        "events/buffer.py": "class AsyncBuffer:\n    pass\n",
        "events/ops.py": '"""Says what an AsyncReader runs."""\n\nLIMIT = 1\n',
        "core/concurrency.py": "async def async_sleep(seconds): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "small"


def test_only_async_modules_get_a_twin(package):
    fresh = generate_sync.generate(package)
    modules = [name for name in fresh if not name.endswith("__init__.py")]
    assert modules == ["events/buffer.py", "events/reader.py"]


def test_the_twin_has_no_async_code_and_imports_twins(package):
    twin = generate_sync.generate(package)["events/reader.py"].decode()
    assert twin.startswith("# Generated from small/events/reader.py by tools/generate_sync.py.")
    assert "class Reader:" in twin
    assert "def __enter__(self)" in twin
    assert "from small._sync.events.buffer import Buffer" in twin
    assert "from small.events import ops" in twin
    assert "from small.core.concurrency import Lock, passthrough, sleep" in twin
    assert ">>> with Reader() as reader:" in twin
    assert '"""Reads. A Reader is a context manager."""' in twin
    assert "async" not in twin.lower()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("async def f():\n    return f'{await g()}'\n", None),
        ("async def f():\n    return [await(x) for x in y]\n", None),
        ("import asyncio\n\n\nasync def f():\n    await asyncio.sleep(1)\n", "imports asyncio"),
        ("f = lambda: 1\nasync def g():\n    await  f()\n", "generated invalid Python"),
    ],
)
def test_what_cannot_be_converted_is_refused(package, code, said):
    (package / "events/more.py").write_text(code)
    if said is None:
        twin = generate_sync.generate(package)["events/more.py"].decode()
        assert "await" not in twin
    else:
        with pytest.raises(RefusedError, match=said):
            generate_sync.generate(package)


def test_a_change_by_hand_is_reported(capsys):
    fresh = {"a.py": b"x = 1\n", "b.py": b"y = 1\n"}
    assert generate_sync.report_differences(fresh, fresh) == 0
    assert generate_sync.report_differences({"a.py": b"x = 2\n", "c.py": b""}, fresh) == 3
    said = capsys.readouterr().out
    assert "-x = 2" in said
    assert "+x = 1" in said


def test_the_committed_tree_is_the_generated_one():
    fresh = generate_sync.generate(generate_sync.PACKAGE)
    target = generate_sync.TARGET
    present = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*.py")}
    assert present == fresh
