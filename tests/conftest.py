"""One server for the run, a database for each test, and the memory in both of its forms."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import ExitStack

import pytest

from pgmem import Memory
from tests.support import commands
from tests.support.both import Both
from tests.support.imports import Compiled, import_from
from tests.support.options import FULL_VARIABLE, full
from tests.support.server import SERVER_VARIABLE, TEMPLATE, Recycled, Server, fresh_database

TEST_SECONDS = 240


def pytest_addoption(parser):
    parser.addoption(
        "--pg",
        default=os.environ.get("PGMEM_TEST_PG"),
        help="the server to test on: a version (15 to 18), a folder with its binaries, or a URL; "
        "PGMEM_TEST_PG does the same; default: the embedded one",
    )

    parser.addoption(
        "--form",
        choices=["sync", "async", "both"],
        help="the form that tests of both forms run in. Default: async, and sync too where a test "
        "is marked both_forms. The sync form is generated, and tests/integration has a contract "
        "suite of its own for it",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="run everything, and the proofs of concurrency at their full size (minutes instead "
        "of one): CI does",
    )


def pytest_configure(config):
    if config.option.full:
        os.environ[FULL_VARIABLE] = "1"
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    config.pgmem_compiled = Compiled()
    config.pgmem_compiled.start()
    config.pgmem_server = Server(config.option.pg)
    config.pgmem_server.start()


def pytest_collection(session):
    """Import all test modules in another order than the other workers, if all are to run."""
    worker = getattr(session.config, "workerinput", None)
    if worker and session.config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        number = int(worker["workerid"].removeprefix("gw"))
        import_from(number, worker["workercount"], session.config.getini("testpaths"))


def pytest_collection_modifyitems(config, items):
    """Leave out what needs --full, and the form that was not asked for."""
    left_out = {item for item in items if item.get_closest_marker("thorough") and not full()}
    left_out |= {item for item in items if _other_form(config.option.form, item)}
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _other_form(wanted, item):
    """Return True if the test runs in a form that was not asked for."""
    forms = {"sync", "async"}.intersection(_parameters(item))
    if wanted is None:
        return "sync" in forms and item.get_closest_marker("both_forms") is None
    return wanted != "both" and bool(forms) and wanted not in forms


def _parameters(item):
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [value for value in given if isinstance(value, str)]


def pytest_collection_finish():
    # Imported modules and collected tests stay until the end: leave them out of collections.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Raise TimeoutError in a test that does not end, such as one that waits for a process."""
    limit = TEST_SECONDS * (10 if full() else 1)

    def stop(*_):
        raise TimeoutError(f"the test was not over after {limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_unconfigure(config):
    server = getattr(config, "pgmem_server", None)
    if server is not None:
        server.stop()
        config.pgmem_compiled.stop()


@pytest.fixture(scope="session")
def pg_server_url():
    """The URL of the run's server: a superuser in the database `postgres`."""
    return os.environ[SERVER_VARIABLE]


@pytest.fixture
def make_database(pg_server_url):
    """Return a function that makes an empty or (`template=True`) migrated database."""
    with ExitStack() as stack:
        yield lambda *, template=False: stack.enter_context(
            fresh_database(pg_server_url, TEMPLATE if template else None)
        )


@pytest.fixture(scope="session")
def recycled(pg_server_url):
    """The migrated database of this worker."""
    database = Recycled(pg_server_url)
    yield database
    database.drop()


@pytest.fixture
def database_url(recycled):
    """The URL of a migrated database that only this test uses: new, or as good as new."""
    with recycled.lend() as url:
        yield url


@pytest.fixture
def memory(database_url):
    """A `Memory` on a database of its own."""
    with Memory(database_url, agent_id="tester") as memory:
        yield memory


@pytest.fixture(params=["async", "sync"])
async def both(request, database_url):
    """A memory to be awaited: an `AsyncMemory`, then a `Memory` behind the same interface."""
    opened = Both(request.param, database_url)
    async with opened.memory(agent_id="tester") as memory:
        yield memory


@pytest.fixture(params=["async", "sync"])
def form(request, database_url):
    """Opens memories of one form, for tests that need more than one."""
    return Both(request.param, database_url)


@pytest.fixture
def pgmem(capfd, monkeypatch):
    """Return a function that runs `pgmem` in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "40")  # Help would be wrapped at 40 columns.
    return lambda *arguments, stdin=None: commands.run(capfd, arguments, stdin)
