"""The generator of the sync tree, on one module: what it turns, and what it refuses.

No database. The goldens are exact texts.
"""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest
import sync_names
from sync_checks import RefusedError, find_leftovers
from sync_source import convert_module


def convert(source: str) -> str:
    return convert_module(source, "pgmem/_async/x.py")


def refusal(source: str) -> str:
    with pytest.raises(RefusedError) as caught:
        convert(source)
    return str(caught.value)


# One module -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("async def f(): ...", "def f(): ..."),
        ("async  def f(): ...", "def f(): ..."),
        ("async def f(): return await g()", "def f(): return g()"),
        ("async def f(): return await(g())", "def f(): return (g())"),
        ("async def f():\n  async with a as b: ...", "def f():\n  with a as b: ..."),
        ("async def f():\n  async for a in b: ...", "def f():\n  for a in b: ..."),
        ("async def f(): [a async for a in b if await c]", "def f(): [a for a in b if c]"),
        ("async def f(): {a: 1 async for a in b}", "def f(): {a: 1 for a in b}"),
        ("async def f(): x = -await a ** 2, not await b", "def f(): x = -a ** 2, not b"),
        ("async def f(): x = await \\\n   a", "def f(): x = a"),
        ("async def f(): x(await  # why\n  a)", "def f(): x(# why\n  a)"),
    ],
)
def test_keywords_are_dropped(before: str, after: str) -> None:
    assert convert(before) == after + "\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(await a.b(1))[0]", "a.b(1)[0]"),
        ("(await a[1:2].b()).c", "a[1:2].b().c"),
        ("(await (await a()).b())[0]", "a().b()[0]"),
        ("(await a or b).c", "(a or b).c"),
        ("(await a, b)", "(a, b)"),
        ("(await a if b else c)", "(a if b else c)"),
        ("g(await a)", "g(a)"),
        ("g[0](await a)", "g[0](a)"),
        ("1 if(await a)else 2", "1 if(a)else 2"),
        ("1 if (await a)else 2", "1 if (a)else 2"),
        ("(await a\n .b).c", "(a\n .b).c"),
        ("(await a[\n1\n]).c", "a[\n1\n].c"),
        ("[await a for b in (await c)]", "[a for b in c]"),
    ],
)
def test_parentheses_go_only_where_they_held_the_await(before: str, after: str) -> None:
    turned = convert(f"async def f(): x = {before}")
    assert turned == f"def f(): x = {after}\n"
    compile(turned, "x", "exec")


@pytest.mark.parametrize(
    ("name", "turned"),
    [
        *sync_names.NAMES.items(),
        ("AsyncMemory", "Memory"),
        ("AsyncConnectionPool", "ConnectionPool"),
        ("_AsyncFollower", "_Follower"),
        ("AsyncExitStack", "ExitStack"),
        ("acloses", "acloses"),
        ("unasleep", "unasleep"),
        ("ALockX", "ALockX"),
    ],
)
def test_names_are_renamed_as_whole_words(name: str, turned: str) -> None:
    assert convert(f"x = {name}(y.{name})") == f"x = {turned}(y.{turned})\n"


def test_a_kept_name_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_names, "KEPT_NAMES", frozenset({"AsyncAdaptedQueuePool"}))
    assert convert("AsyncAdaptedQueuePool()") == "AsyncAdaptedQueuePool()\n"
    assert find_leftovers("AsyncAdaptedQueuePool()", "x.py") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from pgmem._async.state import AsyncState", "from pgmem._sync.state import State"),
        ("from .._async import state", "from .._sync import state"),
        ("import pgmem._async.state", "import pgmem._sync.state"),
        ("x = pgmem._async.state.y", "x = pgmem._sync.state.y"),
        (
            "from sqlalchemy.ext.asyncio.session import AsyncSession as S",
            "from sqlalchemy.orm.session import Session as S",
        ),
        ("import sqlalchemy.ext.asyncio.engine as e", "import sqlalchemy.engine as e"),
    ],
)
def test_modules_are_renamed(before: str, after: str) -> None:
    assert convert(before) == after + "\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Awaitable[int]", "int"),
        ("Callable[..., Awaitable[list[AsyncX]]]", "Callable[..., list[X]]"),
        ("Awaitable[Awaitable[int]] | None", "int | None"),
        ("typing.Awaitable[int] | None", "int | None"),
        ("Coroutine[Any, Any, dict[str, int]]", "dict[str, int]"),
        ("collections.abc.Coroutine[tuple[A, B], Any, int] | str", "int | str"),
        ("AsyncGenerator[int, None]", "Generator[int, None, None]"),
        ("AsyncGenerator[\n int,\n None,\n]", "Generator[\n int,\n None,\n None]"),
        ("AsyncGenerator[int]", "Generator[int]"),
        ("AsyncIterator[int]", "Iterator[int]"),
    ],
)
def test_types_are_unwrapped(before: str, after: str) -> None:
    turned = convert(f"x: {before} = y")  # the spaces that remain are for ruff to remove
    assert turned.replace("  ", " ").replace("  ", " ") == f"x: {after} = y\n"


def test_a_type_over_several_lines_stays_valid() -> None:
    turned = convert("def f() -> Coroutine[\n    Any,\n    Any,\n    int,\n]: ...")
    function = ast.parse(turned).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function.returns is not None
    assert ast.unparse(function.returns) == "int"


def test_strings_stay_unless_they_are_just_a_renamed_name() -> None:
    source = dedent("""\
        __all__ = ["AsyncMemory", 'aclose', "other"]
        log = "pgmem._async.events"
        sql = "select await, async def AsyncMemory", "_async", "async", b"AsyncMemory"
        text = f"await AsyncMemory {x}"
        """)
    assert convert(source) == dedent("""\
        __all__ = ["Memory", 'close', "other"]
        log = "pgmem._sync.events"
        sql = "select await, async def AsyncMemory", "_async", "async", b"AsyncMemory"
        text = f"await AsyncMemory {x}"
        """)


def test_docstrings_are_turned_examples_as_code_and_prose_by_word() -> None:
    source = '''\
class AsyncMemory:
    r"""An AsyncMemory is an async context manager, unlike an `AsyncEngine`.

    See pgmem/_async/x.py. While asleep, we await the bell: ``await memory.aclose()``.

    >>> async with AsyncMemory("x") as memory:
    ...     async for e in memory:
    ...         await memory.put("await AsyncX", 1)
    ...
    await stays in output
    >>> (await memory.get("a")).value
    ... here it is prose, AsyncMemory
    """
'''
    source = source.replace("    ... here", "    1\n\n    ... here")
    expected = '''\
class Memory:
    r"""A Memory is a context manager, unlike an `Engine`.

    See pgmem/_sync/x.py. While asleep, we await the bell: ``memory.close()``.

    >>> with Memory("x") as memory:
    ...     for e in memory:
    ...         memory.put("await AsyncX", 1)
    ...
    await stays in output
    >>> memory.get("a").value
    1

    ... here it is prose, Memory
    """
'''
    assert convert(source) == expected


def test_comments_and_layout_are_kept() -> None:
    source = dedent("""\
        # an AsyncMemory; keep   the   spaces
        x  =  [ 1,2 ]   # type: ignore[misc]

        async def f():   # noqa: X1
            # before
            await g(  a,
                      b )  # after

            # last
        """)
    assert convert(source) == source.replace("an AsyncM", "a M").replace("async ", "").replace(
        "await ", ""
    )


# Refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("import os\nimport asyncio", 2, "'asyncio' cannot be turned"),
        ("\nx = asyncio.sleep(1)", 2, "_compat"),
        ("from sqlalchemy.ext.asyncio import AsyncSession", 1, ".session"),
        ("\n\nf = async lambda: 1", 3, "async lambda"),
        ("def f():\n  return (", 2, "no valid Python"),
        ("await x", 1, "no valid Python"),
        ("if is_async:\n  pass", 1, "'is_async'"),
        ("\nif self._async:\n  pass", 2, "no branch on async or sync"),
        ("def make_Async_thing(): ...", 1, "'make_Async_thing'"),
        ("x = inspect.isawaitable(y)", 1, "maybe_await"),
        ("isinstance(x, Awaitable)", 1, "only Awaitable[X]"),
        ("x: Coroutine[int]", 1, "number of its arguments"),
        ("x: Coroutine[Any,  # why\n Any, int]", 1, "a comment"),
        ("from psycopg import AsyncConnection, Connection", 1, "both become 'Connection'"),
        ("AEvent()\nEvent()", 2, "both become 'Event'"),
        ("class A:\n  def aclose(self): ...\n  def close(self): ...", 3, "become 'close'"),
        ("async def f():\n  return f'{await x}'", 2, "inside an f-string"),
        ("f'{AsyncMemory}'", 1, "inside an f-string"),
        ('"""Doc.\n\n>>> asyncio.run(x)\n"""', 3, "'asyncio'"),
        ('x = 1\n"""Doc.\n\n>>> 1 +\n"""', 4, "no valid Python"),
    ],
)
def test_what_cannot_be_turned_is_refused_with_its_place(source: str, line: int, what: str) -> None:
    message = refusal(source)
    assert message.startswith(f"pgmem/_async/x.py:{line}: ")
    assert what in message


def test_every_problem_is_told_at_once() -> None:
    assert len(refusal("import asyncio\nx_async = 1\nif is_async: pass").splitlines()) == 3


@pytest.mark.parametrize(
    "source",
    [
        "from collections.abc import Iterator, AsyncIterator",
        "class A:\n  async def close(self):\n    await self.rows.aclose()",
        "from psycopg import AsyncConnection\nfrom psycopg import Connection as Plain",
        "from pgmem import _compat\nfrom pgmem.models import Event\n_compat.AEvent()",
    ],
)
def test_pairs_that_are_no_collision_pass(source: str) -> None:
    compile(convert(source), "x", "exec")


@pytest.mark.parametrize(
    "source",
    ["async def f(): ...", "async def f(): await x", "AsyncX", "x.my_async", "Awaitable", "x ="],
)
def test_the_last_check_trusts_nothing(source: str) -> None:
    assert find_leftovers(f"\n{source}", "y.py")[0].line == 2


def test_the_last_check_exempts_comments_and_strings() -> None:
    assert find_leftovers("'async'  # await\nf'async {x}'\n", "y.py") == []
