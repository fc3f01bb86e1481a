"""The generator of the sync tree: what it turns, what it refuses, what `--check` finds.

No database. The goldens are exact texts; the tests of whole trees run the real ruff.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import generate_sync  # noqa: E402
import sync_names  # noqa: E402
from sync_checks import RefusedError, find_leftovers  # noqa: E402
from sync_source import convert_module  # noqa: E402

CONFIG = '[tool.ruff]\nline-length = 100\ntarget-version = "py311"\n'

MEMORY = '''\
"""The memory.

>>> async with AsyncMemory("url") as memory:
...     await memory.put("key", 1)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from psycopg import AsyncConnection

from pgmem._async.events import AsyncEvents
from pgmem._compat import ALock, maybe_await

__all__ = ["AsyncEvents", "AsyncMemory", "Kind"]

Kind = 0


class AsyncMemory:
    """An AsyncMemory holds a connection."""

    def __init__(self, connection: AsyncConnection, lock: ALock) -> None:
        self.connection = connection  # given by the caller
        self.lock = lock

    async def update(self, fn: Callable[[int], int | Awaitable[int]]) -> AsyncIterator[int]:
        async with (
            self.lock,
            self.connection.transaction(),
        ):
            row = (await (await self.connection.execute("select await")).fetchone())[0]
            yield await maybe_await(fn(row))
'''

MEMORY_SYNC = '''\
# Generated from pgmem/_async/memory.py by tools/generate_sync.py. Do not edit.
"""The memory.

>>> with Memory("url") as memory:
...     memory.put("key", 1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from psycopg import Connection

from pgmem._compat import Lock, passthrough
from pgmem._sync.events import Events

__all__ = ["Events", "Kind", "Memory"]

Kind = 0


class Memory:
    """A Memory holds a connection."""

    def __init__(self, connection: Connection, lock: Lock) -> None:
        self.connection = connection  # given by the caller
        self.lock = lock

    def update(self, fn: Callable[[int], int]) -> Iterator[int]:
        with (
            self.lock,
            self.connection.transaction(),
        ):
            row = self.connection.execute("select await").fetchone()[0]
            yield passthrough(fn(row))
'''

EVENTS = '''\
"""Events."""


class AsyncEvents:
    async def append(self, *, name: str, other: str, third: str, fourth: str) -> tuple[str, ...]:
        return await self.run_the_statement_and_wait(name, other, third, fourth, last="the lst")
'''


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


# Whole trees ----------------------------------------------------------------------------


class Project:
    """A project in a temporary folder, and the generator run on it."""

    def __init__(self, root: Path) -> None:
        self.source = root / "pgmem" / "_async"
        self.target = root / "pgmem" / "_sync"
        self.root = root
        (self.source / "groups").mkdir(parents=True)
        (root / "pyproject.toml").write_text(CONFIG)
        (root / "pgmem" / "_compat.py").touch()
        (root / "pgmem" / "__init__.py").touch()
        (self.source / "__init__.py").touch()
        (self.source / "memory.py").write_text(MEMORY)
        (self.source / "events.py").write_text(EVENTS)
        (self.source / "groups" / "__init__.py").write_text('"""Groups."""\n')

    def run(self, *options: str) -> int:
        places = ["--source", str(self.source), "--target", str(self.target)]
        return generate_sync.main([*options, *places])

    def content(self) -> dict[str, bytes]:
        return generate_sync.read_tree(self.target)

    def ruff(self, *command: str) -> None:
        arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "pgmem"]
        done = subprocess.run(
            arguments, cwd=self.root, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    assert project.run() == 0
    return project


def test_a_tree_is_written_as_it_should_be(project: Project) -> None:
    content = project.content()
    assert content["memory.py"].decode() == MEMORY_SYNC
    assert set(content) == {"__init__.py", "memory.py", "events.py", "groups/__init__.py"}
    header = "# Generated from pgmem/_async/groups/__init__.py by tools/generate_sync.py."
    assert content["groups/__init__.py"].decode().startswith(header + " Do not edit.\n")
    for name, text in content.items():
        compile(text, name, "exec")


def test_the_written_tree_is_stable_under_ruff(project: Project) -> None:
    project.ruff("format", "--check")
    project.ruff("check", "--select", "I,F401,RUF022")


def test_lines_that_got_shorter_are_joined_again(project: Project) -> None:
    source = (project.source / "events.py").read_text()
    (project.source / "events.py").write_text(source.replace('"the lst"', '"the last one"'))
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-q", "--no-cache", "pgmem/_async"],
        cwd=project.root,
        check=True,
        timeout=120,
    )
    assert "await self.run_the_statement_and_wait(\n" in (project.source / "events.py").read_text()
    assert project.run() == 0
    assert b'third, fourth, last="the last one")\n' in project.content()["events.py"]
    project.ruff("format", "--check")


def test_writing_twice_changes_nothing_not_even_the_time(project: Project) -> None:
    before = project.content()
    times = {path: path.stat().st_mtime_ns for path in generate_sync.walk(project.target)}
    assert project.run() == 0
    assert project.run("--check") == 0
    assert project.content() == before
    assert times == {path: path.stat().st_mtime_ns for path in generate_sync.walk(project.target)}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_function(project: Project) -> None:
    with (project.target / "events.py").open("a") as file:
        file.write("\n\ndef added() -> None: ...\n")


def edit_by_hand(project: Project) -> None:
    edit(project.target / "memory.py", "yield passthrough", "yield  passthrough")


def remove_header(project: Project) -> None:
    path = project.target / "events.py"
    path.write_text(path.read_text().split("\n", 1)[1])


def change_line_ends(project: Project) -> None:
    path = project.target / "events.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def remove_file(project: Project) -> None:
    (project.target / "groups" / "__init__.py").unlink()


def add_module(project: Project) -> None:
    (project.target / "groups" / "extra.py").write_text("added = 1\n")


def add_data(project: Project) -> None:
    (project.target / "extra.bin").write_bytes(b"added\xff")


def change_source(project: Project) -> None:
    edit(project.source / "events.py", "third", "drei")


def change_comment_in_source(project: Project) -> None:
    edit(project.source / "memory.py", "given by", "lent by")


def add_source(project: Project) -> None:
    (project.source / "new.py").write_text("x = 1\n")


def remove_source(project: Project) -> None:
    (project.source / "events.py").unlink()


@pytest.mark.parametrize(
    ("tamper", "kind", "diff"),
    [
        (add_function, "differs: pgmem/_sync/events.py", "-def added() -> None: ..."),
        (edit_by_hand, "differs: pgmem/_sync/memory.py", "-            yield  passthrough"),
        (remove_header, "differs: pgmem/_sync/events.py", "+# Generated from pgmem/_async/"),
        (change_line_ends, "differs: pgmem/_sync/events.py", "+class Events:"),
        (remove_file, "missing: pgmem/_sync/groups/__init__.py", '+"""Groups."""'),
        (add_module, "extra: pgmem/_sync/groups/extra.py", "-added = 1"),
        (add_data, "extra: pgmem/_sync/extra.bin", "-added"),
        (change_source, "differs: pgmem/_sync/events.py", "+        return self.run"),
        (change_comment_in_source, "differs: pgmem/_sync/memory.py", "# lent by the caller"),
        (add_source, "missing: pgmem/_sync/new.py", "+x = 1"),
        (remove_source, "extra: pgmem/_sync/events.py", "-class Events:"),
    ],
)
def test_check_finds_every_difference_and_changes_nothing(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    tamper: object,
    kind: str,
    diff: str,
) -> None:
    assert project.run("--check") == 0
    assert capsys.readouterr().out == ""
    assert callable(tamper)
    tamper(project)
    before = project.content()
    assert project.run("--check") == 1
    out = capsys.readouterr().out
    assert kind in out.splitlines()
    assert diff in out
    assert "@@" in out
    assert out.count("\n--- ") == 1  # nothing else is blamed
    assert project.content() == before


def test_check_without_a_target_misses_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Project(tmp_path).run("--check") == 1
    assert capsys.readouterr().out.count("missing: ") == 4


def test_writing_repairs_every_edit_and_removes_what_is_stale(project: Project) -> None:
    good = project.content()
    (project.source / "groups" / "__init__.py").unlink()
    add_function(project)
    edit_by_hand(project)
    assert project.run() == 0
    del good["groups/__init__.py"]
    assert project.content() == good
    assert not (project.target / "groups").exists()


def test_pycache_is_left_alone(project: Project) -> None:
    for folder in (project.source, project.target, project.target / "groups"):
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "x.pyc").write_bytes(b"async")
    assert project.run("--check") == 0
    (project.source / "groups" / "__init__.py").unlink()
    assert project.run() == 0
    assert (project.target / "groups" / "__pycache__" / "x.pyc").exists()


def test_a_file_that_was_not_generated_is_never_deleted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    add_module(project)
    change_source(project)
    before = project.content()
    assert project.run() == 2
    assert "extra.py: was not generated" in capsys.readouterr().err
    assert project.content() == before


def test_a_linked_file_is_not_written_through(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("x = 1\n")
    (project.target / "memory.py").unlink()
    (project.target / "memory.py").symlink_to(outside)
    assert project.run() == 2
    assert outside.read_text() == "x = 1\n"


def test_a_linked_folder_is_not_followed(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.py").write_text("x = 1\n")
    (project.target / "groups" / "__init__.py").unlink()
    (project.target / "groups").rmdir()
    (project.target / "groups").symlink_to(outside)
    assert project.run() == 2
    assert project.run("--check") == 2
    assert [path.name for path in outside.iterdir()] == ["mine.py"]


def test_one_refused_file_stops_everything(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    change_source(project)
    edit(project.source / "memory.py", "Kind = 0", "Kind = asyncio")
    before = project.content()
    assert project.run() == 2
    assert "pgmem/_async/memory.py:18: 'asyncio'" in capsys.readouterr().err
    assert project.content() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [("data.json", "{}"), ("pool_async.py", ""), ("async_things/x.py", ""), ("x.py", "\udcff")],
)
def test_files_that_do_not_belong_are_refused(project: Project, name: str, text: str) -> None:
    (project.source / name).parent.mkdir(exist_ok=True)
    (project.source / name).write_bytes(text.encode(errors="surrogateescape"))
    assert project.run() == 2


def test_an_import_that_stays_asynchronous_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.source / "x.py").write_text("from collections.abc import Awaitable  # noqa: F401\n")
    assert project.run() == 2
    assert "pgmem/_sync/x.py:2: 'Awaitable' is left over" in capsys.readouterr().err


def test_an_empty_source_or_nested_folders_are_refused(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.content()
    source = project.source
    project.source = source.parent / "missing"
    assert project.run() == 2
    assert "nothing to generate from" in capsys.readouterr().err
    assert project.content() == before
    project.source = source.parent
    assert project.run() == 2
    project.source = project.target
    assert project.run() == 2
    assert project.content() == before


def test_settings_that_ruff_refuses_are_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "pyproject.toml").write_text("[tool.ruff]\nline-length = 'x'\n")
    assert project.run("--check") == 2
    assert "ruff check: failed" in capsys.readouterr().err


def test_the_projects_own_settings_are_used(project: Project) -> None:
    (project.root / "pyproject.toml").write_text("[tool.ruff]\nline-length = 60\n")
    assert project.run("--check") == 1


def test_it_runs_as_a_script(project: Project) -> None:
    command = [sys.executable, str(TOOLS / "generate_sync.py"), "--check"]
    places = ["--source", str(project.source), "--target", str(project.target)]
    assert subprocess.run([*command, *places], check=False, timeout=120).returncode == 0
    add_function(project)
    done = subprocess.run(
        [*command, *places], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "-def added()" in done.stdout
