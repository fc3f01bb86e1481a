"""Fixtures for the tests of programs that use pgmem: a pytest plugin.

`pytest_plugins = ["pgmem.testing"]` in the top `conftest.py` makes them known. One private server
serves a run, also with pytest-xdist, and each test gets a database of its own: a copy of a template
that was migrated once. It needs the extra `embedded`, unless `pgmem_server_url` is overridden.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmem import AsyncMemory, EmbeddedPostgres, Memory, migrate

TEMPLATE = "pgmem_template"

_LOCK = 7_305_808_268_811_623_029  # any number: the advisory lock of the template
_FOLDER = "pgmem_folder"
_KEY = pytest.StashKey[Path]()
_SETTINGS = {"fsync": "off", "max_connections": "300"}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the folder of the server that all workers share."""
    stash = node.config.stash
    if _KEY not in stash:
        stash[_KEY] = Path(tempfile.mkdtemp(prefix="pgmem-tests-"))
        stash[_KEY].chmod(0o755)  # If root runs the tests, another account runs the server.
    node.workerinput[_FOLDER] = str(stash[_KEY])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder. The server has ended with its last worker."""
    folder = config.stash.get(_KEY, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pgmem_server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the run's server, as a role that may create databases.

    Override it to use a server that is there already, such as a service of the CI.
    """
    folder = getattr(request.config, "workerinput", {}).get(_FOLDER)
    data = None if folder is None else Path(folder) / "data"
    with EmbeddedPostgres(data, settings=_SETTINGS) as server:
        yield server.url


@pytest.fixture(scope="session")
def pgmem_template(pgmem_server_url: str) -> str:
    """The name of a database with pgmem's tables. Override it to migrate your own tables too."""
    with psycopg.connect(pgmem_server_url, autocommit=True) as connection:
        connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", [_LOCK])
        found = connection.execute(
            "SELECT FROM pg_catalog.pg_database WHERE datname = %s", [TEMPLATE]
        )
        if found.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        migrate.upgrade(make_conninfo(pgmem_server_url, dbname=TEMPLATE))
    return TEMPLATE


@pytest.fixture
def pgmem_url(pgmem_server_url: str, pgmem_template: str) -> Iterator[str]:
    """The URL of a migrated database that only this test uses. It is dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = sql.Identifier(name)
    template = sql.Identifier(pgmem_template)
    with psycopg.connect(pgmem_server_url, autocommit=True) as connection:
        connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", [_LOCK])  # One copy at a time.
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, template))
    try:
        yield make_conninfo(pgmem_server_url, dbname=name)
    finally:
        with psycopg.connect(pgmem_server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture
def memory(pgmem_url: str) -> Iterator[Memory]:
    """An open `Memory` on a database of its own."""
    with Memory(pgmem_url) as opened:
        yield opened


@pytest.fixture
def async_memory(pgmem_url: str) -> AsyncMemory:
    """An `AsyncMemory` on a database of its own, for `async with async_memory:` in the test.

    It is not open, because it belongs to the event loop of the test, and each plugin for
    asynchronous tests makes its own.
    """
    return AsyncMemory(pgmem_url)
