"""The tests that the pages name as proof exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
DOCS = TESTS.parent / "docs"


def named_in(page):
    """Return the names of the tests that a page mentions."""
    return set(re.findall(r"`(test_\w+)`", (DOCS / page).read_text(encoding="utf-8")))


def defined_in(*files):
    texts = [path.read_text(encoding="utf-8") for path in files]
    return {name for text in texts for name in re.findall(r"def (test_\w+)\(", text)}


PUBLISHED_LAYER = "howto/published-layer.md"


@pytest.mark.parametrize(
    "page", ["explanation/guarantees.md", PUBLISHED_LAYER, "howto/switching-from-redis.md"]
)
def test_each_named_test_exists(page):
    named = named_in(page)
    assert named, f"{page} names no test"
    assert named - defined_in(*TESTS.rglob("test_*.py")) == set()


def test_each_fault_of_the_published_code_has_its_line():
    assert named_in(PUBLISHED_LAYER) == defined_in(*TESTS.glob("system/redis/test_faults_of_*.py"))


def test_each_guarantee_has_one_number_and_one_line_of_tests():
    text = (DOCS / "explanation/guarantees.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*)", text, re.MULTILINE)
    tested = [number for number, row in rows if row.startswith("`test_")]
    promised = [number for number, row in rows if not row.startswith("`test_")]
    assert sorted(promised) == sorted(set(promised)) == sorted(tested)
