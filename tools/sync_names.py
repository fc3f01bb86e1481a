"""The tables that turn names of the async tree into names of the sync tree.

What it is for: every rename that `generate_sync.py` makes is written here, once, as data.
What it may not do: look at code. A name comes in, a name goes out; where the name stands
and whether it may stand there is the business of `sync_source.py`.
"""

from __future__ import annotations

import re
from typing import Final

# `AsyncMemory` -> `Memory`, `_AsyncFollower` -> `_Follower`: the rule for classes, ours and
# those of psycopg, SQLAlchemy and typing alike.
ASYNC_CLASS: Final = re.compile(r"(_*)Async([A-Z]\w*)")

# Names of the form above that stay as they are, in both trees.
KEPT_NAMES: frozenset[str] = frozenset()

# Python's own pairs.
LANGUAGE_NAMES: Final = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "StopAsyncIteration": "StopIteration",
    "aclose": "close",
    "aclosing": "closing",
    "aiter": "iter",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
    "enter_async_context": "enter_context",
    "push_async_callback": "callback",
    "push_async_exit": "push",
}

# The pairs that `pgmem/_compat.py` exports.
COMPAT_NAMES: Final = {
    "ACondition": "Condition",
    "AEvent": "Event",
    "ALock": "Lock",
    "AQueue": "Queue",
    "AReadable": "Readable",
    "ASemaphore": "Semaphore",
    "AStopSignals": "StopSignals",
    "AWakeup": "Wakeup",
    "AWorker": "Worker",
    "adriver_connection": "driver_connection",
    "agather": "gather",
    "aside": "here",
    "maybe_await": "passthrough",
    "asleep": "sleep",
    "aspawn": "spawn",
}

NAMES: Final = {**LANGUAGE_NAMES, **COMPAT_NAMES}

# Whole modules, in import statements. `sqlalchemy.ext.asyncio` itself has no single twin
# (Session lives in sqlalchemy.orm, Connection in sqlalchemy.engine): import from its parts.
MODULES: Final = {
    "sqlalchemy.ext.asyncio.engine": "sqlalchemy.engine",
    "sqlalchemy.ext.asyncio.session": "sqlalchemy.orm.session",
}

# A file may use both sides of these pairs: in the sync tree they are one and the same thing.
# For any other pair, both in one file would silently become one name, and is refused.
MERGEABLE: Final = frozenset(
    {
        "AbstractContextManager",
        "ContextManager",
        "ExitStack",
        "Generator",
        "Iterable",
        "Iterator",
        "StopIteration",
        "closing",
        "contextmanager",
        "iter",
        "next",
    }
)

# Words of the tables that are English too: never renamed in prose.
ENGLISH: Final = frozenset({"aside", "asleep"})

# Phrases of docstrings and comments. Longer ones first.
PHRASES: Final = {
    "an asynchronous": "a synchronous",
    "An asynchronous": "A synchronous",
    "asynchronous": "synchronous",
    "Asynchronous": "Synchronous",
    "an async context manager": "a context manager",
    "An async context manager": "A context manager",
    "async context manager": "context manager",
    "an async generator": "a generator",
    "An async generator": "A generator",
    "async generator": "generator",
    "an async iterator": "an iterator",
    "async iterator": "iterator",
    "an async function": "a function",
    "An async function": "A function",
    "async function": "function",
    "coroutine function": "function",
}

# Whatever still says this in the sync tree was not turned.
FORBIDDEN: Final = re.compile(r"async|await|coroutine", re.IGNORECASE)

# What to do instead, for the names people will try.
HINTS: Final = {
    "asyncio": "put the pair that differs into pgmem/_compat.py; of sqlalchemy.ext.asyncio "
    "import the parts .engine and .session",
    "Awaitable": "only Awaitable[X] in an annotation can be turned",
    "Coroutine": "only Coroutine[A, B, X] in an annotation can be turned",
    "isawaitable": "use maybe_await of pgmem/_compat.py",
    "iscoroutinefunction": "use maybe_await of pgmem/_compat.py",
    "_async": "no branch on async or sync here: what differs belongs into pgmem/_compat.py",
}


def rename(name: str) -> str:
    """The sync name of one identifier; itself where the trees do not differ."""
    if name in KEPT_NAMES:
        return name
    if name in NAMES:
        return NAMES[name]
    found = ASYNC_CLASS.fullmatch(name)
    return found[1] + found[2] if found else name


def rename_dotted(path: str) -> str:
    """The sync form of `name` or `a.b.name`; `pgmem._async` becomes `pgmem._sync`."""
    path = re.sub(r"^pgmem\._async\b", "pgmem._sync", path)
    return ".".join(rename(part) for part in path.split("."))


def is_forbidden(name: str) -> bool:
    """Whether this name may not stand in the sync tree."""
    return name not in KEPT_NAMES and FORBIDDEN.search(name) is not None


def hint(name: str) -> str:
    """What to do about a refused name."""
    return HINTS.get(name, "rename it, or add it to the tables in tools/sync_names.py")
