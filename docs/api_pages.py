"""Write the pages of the API reference from what `pgmem` makes public.

`memory.md` shows `AsyncMemory` and its transactions, one page each group of verbs, one page the
models, and one page the errors. The sync form has the same names, so it is noted and not repeated.
The pages are made anew at every build and are not in the repository.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

NOTE = (
    "Documented in its async form. `Memory` has the same methods without `await`; "
    "its classes are called the same without `Async`."
)


MADE_BY_MEMORY: set[str] = set()
"""The classes that a memory makes, by their full names."""


def write(folder: Path, pgmem: ModuleType) -> None:
    """Write all pages; replace those of an earlier build."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = dict(_pages(pgmem))
    pages["index"] = _index(pages)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def groups_of_verbs(memory: Any, prefix: str = "memory") -> Iterator[tuple[str, type]]:
    """Find the verb groups of a memory, such as `memory.state.snapshots`, with their classes."""
    made = [n for n, value in vars(type(memory)).items() if isinstance(value, cached_property)]
    for name in sorted({*vars(memory), *made}):
        value = getattr(memory, name)
        cls = type(value)
        if not name.startswith("_") and cls.__module__.startswith("pgmem."):
            yield f"{prefix}.{name}", cls
            yield from groups_of_verbs(value, f"{prefix}.{name}")


def _pages(pgmem: ModuleType) -> Iterator[tuple[str, str]]:
    public = {name: getattr(pgmem, name) for name in pgmem.__all__}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    errors = [name for name, cls in classes.items() if issubclass(cls, Exception)]
    sync = [name for name in classes if f"Async{name}" in classes]
    memory = public["AsyncMemory"]("postgresql://")
    verbs = dict(groups_of_verbs(memory))
    forms = [
        name
        for name in ("AsyncMemory", "AsyncTransaction", "AsyncBoundMemory", "AsyncOptimistic")
        if name in classes
    ]
    yield "memory", _page("Memory", [f"pgmem.{name}" for name in forms], NOTE)
    MADE_BY_MEMORY.update(map(_place, verbs.values()))
    for name, cls in verbs.items():
        yield (
            name.removeprefix("memory.").replace(".", "_"),
            _page(f"{name}", [f"{cls.__module__}.{cls.__qualname__}"], NOTE),
        )
    handles = [name for name in classes if name.startswith("Async") and name not in forms]
    MADE_BY_MEMORY.update(f"pgmem.{name}" for name in [*forms[1:], *handles])
    yield "handles", _page("Subscriptions, groups, leases", [f"pgmem.{n}" for n in handles], NOTE)
    rest = [n for n in classes if n not in {*forms, *handles, *sync, *errors}]
    yield "models", _page("Models", [f"pgmem.{name}" for name in rest], "")
    others = [name for name in public if name not in classes]
    for name in others:
        if inspect.ismodule(public[name]):
            place = public[name].__name__
            yield name, _page(f"pgmem.{name}", [place], "", "automodule")
    values = [f"pgmem.{name}" for name in others if not inspect.ismodule(public[name])]
    if values:
        yield "values", _page("Values", values, "", "autodata")
    found = [_place(cls) for cls in _errors(pgmem)]
    note = "All are subclasses of `PgmemError`."
    yield "errors", _page("Errors", found, note, options=["show-inheritance"])


def _errors(pgmem: ModuleType) -> list[type]:
    from pgmem import errors  # noqa: PLC0415  # the build imports pgmem first

    found = [
        value
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.PgmemError)
        and value.__module__ == errors.__name__
        and not name.startswith("_")
    ]
    return sorted(found, key=lambda cls: [base.__name__ for base in reversed(cls.__mro__)])


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _page(
    title: str,
    names: list[str],
    note: str,
    directive: str = "autoclass",
    options: Sequence[str] = (),
) -> str:
    parts = [title, "=" * len(title), "", note, ""]
    for name in names:
        parts += [f".. {directive}:: {name}", *(f"   :{option}:" for option in options), ""]
    return "\n".join(parts)


def _index(pages: dict[str, str]) -> str:
    names = "\n".join(f"   {name}" for name in pages)
    return f"API\n===\n\n{NOTE}\n\n.. toctree::\n   :maxdepth: 1\n\n{names}\n"
