"""Make `pgmem/_sync/` from `pgmem/_async/`, or check that it is what would be made.

    python tools/generate_sync.py            write the tree
    python tools/generate_sync.py --check    compare the trees; exit 1 with a diff if they differ

What it is for: the async tree is edited by hand, the sync tree is generated and committed.
Tables of names are in `sync_names.py`, the conversion of one module in `sync_source.py`,
docstrings and comments in `sync_text.py`, refusals in `sync_checks.py`.
What it may not do: touch anything outside the target folder, follow a symbolic link, delete
a file that it did not generate, or write anything at all while one file is refused.

The result is made in a temporary folder, sorted and formatted there by ruff with the
project's own settings, and then compared file by file, in both directions: whatever is
missing, extra or different in the target is found, whoever put it there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sync_checks import Problem, RefusedError, find_leftovers
from sync_names import FORBIDDEN
from sync_source import convert_module

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "pgmem" / "_async"
TARGET: Final = ROOT / "pgmem" / "_sync"

HEADER: Final = "# Generated from {} by tools/generate_sync.py. Do not edit.\n"
_HEADER_START, _HEADER_END = HEADER.split("{}")

# Imports sorted; imports that only async code needs, removed; `X | X` (once
# `X | Awaitable[X]`) made one; `__all__` in order again after the renames.
RUFF_RULES: Final = "I,F401,PYI016,RUF022"

Tree = dict[str, bytes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done or equal, 1 the trees differ, 2 refused."""
    parser = argparse.ArgumentParser(description="Make pgmem/_sync/ from pgmem/_async/.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--source", type=Path, default=SOURCE, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, default=TARGET, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    source, target = options.source.absolute(), options.target.absolute()
    try:
        fresh = generate(source, target)
        present = read_tree(target)
        if options.check:
            return report_differences(present, fresh, target)
        write_tree(target, present, fresh)
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        return 2
    return 0


def generate(source: Path, target: Path) -> Tree:
    """Everything that the target should hold."""
    root = find_root(target)
    modules = read_tree(source)
    if not modules:
        raise RefusedError([Problem(str(source), 0, "there is nothing to generate from")])
    if source == target or source in target.parents or target in source.parents:
        raise RefusedError([Problem(str(target), 0, "source and target lie in one another")])
    converted: dict[str, str] = {}
    problems: list[Problem] = []
    for name, content in modules.items():
        try:
            converted[name] = convert_file(name, content, display(source / name, root))
        except RefusedError as refused:
            problems += refused.problems
    if problems:
        raise RefusedError(problems)
    fresh = format_tree(converted, root, target.relative_to(root).parts[0])
    for name, content in fresh.items():
        problems += find_leftovers(content.decode(), display(target / name, root))
    if problems:
        raise RefusedError(problems)
    return fresh


def convert_file(name: str, content: bytes, shown: str) -> str:
    """The sync twin of one file, with its header, not yet formatted."""
    if not name.endswith(".py"):
        raise RefusedError(
            [Problem(shown, 0, "only .py files can be turned: it belongs elsewhere")]
        )
    if FORBIDDEN.search(name):
        raise RefusedError([Problem(shown, 0, "the file's own name must do for both trees")])
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RefusedError([Problem(shown, 0, f"this is no UTF-8: {error}")]) from error
    return HEADER.format(shown) + convert_module(text, shown)


def format_tree(modules: dict[str, str], root: Path, package: str) -> Tree:
    """Sort the imports and format, in a temporary folder, with the project's settings.

    Ruff takes a module for ours if it finds its file, and before the first writing there is
    none of `pgmem._sync`: the package is named, lest the second run sorts another way.
    """
    with tempfile.TemporaryDirectory(prefix="generate-sync-") as folder:
        tree = Path(folder).resolve() / "tree"
        for name, text in modules.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text, encoding="utf-8", newline="\n")
        rules = ["--select", RUFF_RULES, "--fix", "--no-unsafe-fixes", "--exit-zero"]
        ours = ["--config", f"lint.isort.known-first-party=[{json.dumps(package)}]"]
        run_ruff(["check", *rules, *ours], tree, root)
        run_ruff(["format"], tree, root)
        return read_tree(tree)


def run_ruff(command: list[str], tree: Path, root: Path) -> None:
    """Run ruff on the folder as if it were part of the project."""
    settings = ["--quiet", "--no-cache", "--config", str(root / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, *settings, str(tree)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        output = (done.stderr or done.stdout).strip()
        raise RefusedError([Problem("ruff " + command[0], 0, f"failed: {output}")])


def read_tree(folder: Path) -> Tree:
    """The files below a folder by their relative names, `__pycache__` left out."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(walk(folder))}


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder; a symbolic link, which could lead out of it, is refused."""
    if folder.is_symlink():
        raise RefusedError([Problem(str(folder), 0, "is a symbolic link")])
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_symlink():
            raise RefusedError([Problem(str(path), 0, "is a symbolic link")])
        if not path.is_dir():
            yield path
        elif path.name != "__pycache__":
            yield from walk(path)


def report_differences(present: Tree, fresh: Tree, target: Path) -> int:
    """Print what differs, as unified diffs from what is there to what should be."""
    root = find_root(target)
    differing = [
        name for name in sorted({*present, *fresh}) if present.get(name) != fresh.get(name)
    ]
    for name in differing:
        shown = display(target / name, root)
        kind = "missing" if name not in present else "differs" if name in fresh else "extra"
        print(f"{kind}: {shown}")
        before = present.get(name, b"").decode(errors="replace").splitlines(keepends=True)
        after = fresh.get(name, b"").decode(errors="replace").splitlines(keepends=True)
        old = shown if name in present else "/dev/null"
        new = f"{shown} (generated)" if name in fresh else "/dev/null"
        for line in difflib.unified_diff(before, after, old, new):
            print(
                line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n", end=""
            )
    if differing:
        print(f"{len(differing)} files differ. Edit the async tree, then run:")
        print("python tools/generate_sync.py")
    return 1 if differing else 0


def write_tree(target: Path, present: Tree, fresh: Tree) -> None:
    """Make the target hold exactly the fresh files; files that are right are not touched."""
    stale = [name for name in present if name not in fresh]
    foreign = [name for name in stale if not is_generated(present[name])]
    if foreign:
        message = "was not generated: move it away, nothing was written"
        raise RefusedError([Problem(str(target / name), 0, message) for name in foreign])
    for name in stale:
        (target / name).unlink()
        remove_empty_folders((target / name).parent, target)
    for name, content in fresh.items():
        if present.get(name) != content:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)


def remove_empty_folders(folder: Path, target: Path) -> None:
    """Remove a folder and those above it, up to the target, as far as they are empty."""
    if folder != target and not any(folder.iterdir()):
        folder.rmdir()
        remove_empty_folders(folder.parent, target)


def is_generated(content: bytes) -> bool:
    """Whether a file says of itself that it comes from here."""
    first = content.split(b"\n", 1)[0].decode(errors="replace") + "\n"
    return first.startswith(_HEADER_START) and first.endswith(_HEADER_END)


def find_root(target: Path) -> Path:
    """The project's folder: the nearest one above the target that has a pyproject.toml."""
    for folder in target.parents:
        if (folder / "pyproject.toml").is_file():
            return folder
    raise RefusedError([Problem(str(target), 0, "no pyproject.toml in any folder above it")])


def display(path: Path, root: Path) -> str:
    """The path as people and headers say it: from the project's folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


if __name__ == "__main__":
    sys.exit(main())
