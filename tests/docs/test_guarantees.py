"""The tests that guarantees.md names as proof exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_each_named_test_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    files = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    there = {name for text in files for name in re.findall(r"def (test_\w+)\(", text)}
    assert named, "guarantees.md names no test"
    assert named - there == set()
