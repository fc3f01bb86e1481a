"""The generator of the sync tree, on whole trees: what it writes, and what `--check` finds.

No database. The goldens are exact texts; the real ruff runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import generate_sync
import pytest

TOOLS = Path(generate_sync.__file__).parent

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
