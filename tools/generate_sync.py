"""Generate the sync modules under `pgmem/_sync/` from the async modules of `pgmem/`.

    python tools/generate_sync.py            write the tree
    python tools/generate_sync.py --check    compare only; exit 1 and print a diff if they differ

A module of a capability is a source if its code uses `async`, `await` or a name that begins with
`Async`. Its twin has the same path under `pgmem/_sync/`. What tasks and threads do differently
stands in pairs: `AsyncLock` and `Lock`, `async_sleep` and `sleep` in `pgmem/core/concurrency.py`,
and what depends on the argument of `using()` in `pgmem/core/sources.py`.

The substitutions work on text, as httpcore's unasync.py does. ruff then removes unused imports,
sorts and formats. A twin that does not compile, or still holds `async` or `await`, is refused.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pgmem"
TARGET = PACKAGE / "_sync"
HEADER = "# Generated from {} by tools/generate_sync.py. Do not edit.\n"

WITHOUT_TWIN = (
    "_sync", "cli", "demo", "embedded", "testing", "redis/importing", "core/concurrency.py",
    "core/call_queue.py", "core/signals.py", "core/sockets.py", "core/sources.py",
)  # fmt: skip

SUBSTITUTIONS = [
    (r"\basync (with|for|def)\b", r"\1"),
    (r"\bawait\b(?: (?=[\w(\"'])|(?=\())", ""),
    (r"(?i)\b(a)n (`*)Async(?=[B-DF-HJ-NP-TV-Z])", r"\1 \2"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b_Async(?=[A-Z])", "_"),
    (r"\basync_(sleep|drive|current_loop|driver_connection|begin_nested)\b", r"\1"),
    (r" \| Awaitable\[Any\]", ""),
    (r"\b(?:Awaitable)\[(\w+)\]", r"\1"),
    (r"\bAbstractAsyncContextManager\b", "AbstractContextManager"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(closing|close|iter|next)\(", r"\1("),
    (r"\benter_async_context\b", "enter_context"),
    (r"\bpush_async_callback\b", "callback"),
    (r"\brun_in_thread\b", "run_inline"),
    (r"\bmaybe_await\b", "passthrough"),
    (r"\bsqlalchemy\.ext\.asyncio\.engine\b", "sqlalchemy.engine"),
    (r"\bsqlalchemy\.ext\.asyncio\.session\b", "sqlalchemy.orm.session"),
    (r"\b([Aa])n async (context manager|generator|function)\b", r"\1 \2"),
    (r"\b[Aa]sync (context manager|iterator|generator|function)\b", r"\1"),
    (r"\b([Aa])n asynchronous\b", r"\1 synchronous"),
    (r"\basynchronous\b", "synchronous"),
]
_COMPILED = [(re.compile(pattern), text) for pattern, text in SUBSTITUTIONS]

# Imports sorted, unused ones removed, `X | X` made one, `__all__` in order after the renames.
RUFF_RULES = "I,F401,PYI016,RUF022"


class RefusedError(Exception):
    """A module cannot be converted. Nothing was written."""


def is_source(text: str) -> bool:
    """Return True if the code of a module (its texts left out) is asynchronous."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [getattr(node, "id", ""), getattr(node, "name", "")]
        )
        if any(isinstance(name, str) and re.match(r"_*Async[A-Z]", name) for name in names):
            return True
    return False


def find_sources(package: Path) -> dict[str, str]:
    """Return the text of each async module by its path relative to the package."""
    sources = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if path.name == "__init__.py" or name.startswith(WITHOUT_TWIN):
            continue
        if is_source(text := path.read_text("utf-8")):
            sources[name] = text
    return sources


def convert(text: str, sources: set[str], package: str = "pgmem") -> str:
    """Return the sync twin of a module's text, not yet formatted.

    Args:
        text: the async module.
        sources: the dotted names, below the package, of all async modules.
        package: the package's name.
    """
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)

    def qualify(found: re.Match[str]) -> str:
        """Point an import, or a name in a text, at the twin if the module has one."""
        return f"{package}._sync.{found[1]}" if found[1] in sources else found[0]

    text = re.sub(rf"\b{package}\.((?:\w+\.)*\w+)\b", qualify, text)

    def qualify_module(found: re.Match[str]) -> str:
        """Rewrite an import such as `from pgmem.events import reader`."""
        if f"{found[1]}.{found[2]}" not in sources:
            return found[0]
        return f"from {package}._sync.{found[1]} import {found[2]}"

    return re.sub(
        rf"^from {package}\.(\w+) import (\w+)(?= as |$)", qualify_module, text, flags=re.M
    )


def check_converted(text: str, name: str) -> None:
    """Refuse a twin that is not synchronous Python.

    Raises:
        RefusedError: it does not compile, or something asynchronous is left in its code.
    """
    try:
        tree = ast.parse(text)
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise RefusedError(
            f"{name}:{error.lineno}: generated invalid Python: {error.msg}"
        ) from None
    if is_source(text):
        raise RefusedError(f"{name}: async code is left over: extend SUBSTITUTIONS")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "asyncio" in ast.unparse(node):
            raise RefusedError(
                f"{name}:{node.lineno}: imports asyncio: put the pair that differs into "
                f"core/concurrency.py"
            )


def generate(package: Path) -> dict[str, bytes]:
    """Return what the target should hold: the bytes of each file by its relative path.

    Raises:
        RefusedError: a module cannot be converted.
    """
    found = find_sources(package)
    dotted = {name.removesuffix(".py").replace("/", ".") for name in found}
    with tempfile.TemporaryDirectory(prefix="generate-sync-") as folder:
        tree = Path(folder) / "tree"
        folders = {parent for name in found for parent in Path(name).parents}
        for parent in folders:
            (tree / parent).mkdir(parents=True, exist_ok=True)
            source = f"{package.name}/{parent}/" if str(parent) != "." else f"{package.name}/"
            (tree / parent / "__init__.py").write_text(HEADER.format(source), "utf-8")
        for name, text in found.items():
            twin = HEADER.format(f"{package.name}/{name}") + convert(text, dotted, package.name)
            check_converted(twin, name)
            (tree / name).write_text(twin, "utf-8")
        ours = f'lint.isort.known-first-party=["{package.name}"]'
        fix = ["--select", RUFF_RULES, "--fix", "--no-unsafe-fixes", "--exit-zero"]
        run_ruff(["check", *fix, "--config", ours, str(tree)])
        run_ruff(["format", str(tree)])
        return {p.relative_to(tree).as_posix(): p.read_bytes() for p in sorted(tree.rglob("*.py"))}


def run_ruff(arguments: list[str]) -> None:
    """Run ruff with the project's settings."""
    settings = ["--quiet", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    subprocess.run([sys.executable, "-m", "ruff", *arguments, *settings], cwd=ROOT, check=True)


def report_differences(present: dict[str, bytes], fresh: dict[str, bytes]) -> int:
    """Print a diff of each file that is missing, extra or different. Return their number."""
    differing = [n for n in sorted({*present, *fresh}) if present.get(n) != fresh.get(n)]
    for name in differing:
        before = present.get(name, b"").decode(errors="replace").splitlines()
        after = fresh.get(name, b"").decode().splitlines()
        shown = f"pgmem/_sync/{name}"
        print(
            *difflib.unified_diff(before, after, shown, f"{shown} (generated)", "", "", 3, ""),
            sep="\n",
        )
    if differing:
        print(f"{len(differing)} files differ: edit the async module, run tools/generate_sync.py")
    return len(differing)


def main() -> int:
    """Write the tree, or compare it. Return the exit status: 1 if it differs, 2 if refused."""
    parser = argparse.ArgumentParser(description="Generate pgmem/_sync/ from the async modules.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args()
    try:
        fresh = generate(PACKAGE)
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        return 2
    present = {p.relative_to(TARGET).as_posix(): p.read_bytes() for p in TARGET.rglob("*.py")}
    if options.check:
        return 1 if report_differences(present, fresh) else 0
    for name in present.keys() - fresh.keys():
        (TARGET / name).unlink()
    for name, content in fresh.items():
        if present.get(name) != content:
            (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
            (TARGET / name).write_bytes(content)
    for folder in [p for p in TARGET.rglob("*") if p.is_dir() and not list(p.glob("*.py"))]:
        shutil.rmtree(folder, ignore_errors=True)  # A folder whose modules all went.
    return 0


if __name__ == "__main__":
    sys.exit(main())
