"""A URL with several hosts."""

from __future__ import annotations

import logging

import pytest

from pgmem import AsyncMemory


@pytest.mark.parametrize(
    ("attributes", "warned"), [("", True), ("any", True), ("read-write", False)]
)
async def test_several_hosts_without_a_wanted_kind_are_warned_of(
    database_url, attributes, warned, caplog
):
    caplog.set_level(logging.WARNING, "pgmem")
    memory = AsyncMemory(database_url)
    memory._database._options["host"] = "127.0.0.1,127.0.0.2"
    memory._database._options["target_session_attrs"] = attributes or None
    memory._database._warn_of_hosts()
    assert ("target_session_attrs=read-write" in caplog.text) is warned
