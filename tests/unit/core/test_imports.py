"""An import of pgmem loads the driver late, one form at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded(code):
    """Return the modules that a fresh interpreter has after running `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_no_driver():
    assert not {"psycopg", "pydantic", "asyncio", "orjson"} & loaded("import pgmem")


def test_the_sync_form_loads_no_async_module():
    modules = loaded("from pgmem import Memory")
    twins = {name for name in modules if name.startswith("pgmem._sync.")}
    assert "pgmem._sync.memory" in twins
    sources = {name.replace("._sync.", ".") for name in twins if name.count(".") > 2}
    assert not (sources | {"pgmem.memory"}) & modules


def test_the_async_form_loads_no_sync_module():
    modules = loaded("from pgmem import AsyncMemory")
    assert "pgmem.memory" in modules
    assert not [name for name in modules if name.startswith("pgmem._sync")]


@pytest.mark.parametrize("name", ["Memory", "AsyncMemory"])
def test_a_memory_loads_what_few_programs_use_on_first_use(name):
    modules = loaded(f"from pgmem import {name}; {name}('postgresql://')")
    unwanted = ("sqlalchemy", "alembic", "click", "rich", "redis")
    assert not [m for m in modules if m.split(".")[0] in unwanted]
    for folder in ("groups", "retention", "folds", "admin", "redis", "cli", "embedded"):
        assert not [
            m for m in modules if m.startswith((f"pgmem.{folder}.", f"pgmem._sync.{folder}."))
        ]
