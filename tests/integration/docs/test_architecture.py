"""The files, classes and tables that docs/architecture.md names exist."""

import re

import pytest

from pgmem.admin.tables import tables
from tests.integration.docs.examples import CHECKOUT

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted({*re.findall(r"`([^`\n]+)`", PAGE)})
FILES = [name for name in NAMES if re.fullmatch(r"[a-z_]+/[\w/.]*", name)]
CLASSES = [name for name in NAMES if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", name)]
SOURCES = "\n".join(path.read_text("utf-8") for path in (CHECKOUT / "pgmem").rglob("*.py"))


def test_there_is_something_to_check():
    assert len(FILES) > 8
    assert len(CLASSES) > 2


@pytest.mark.parametrize("name", FILES)
def test_a_named_file_exists(name):
    folders = [CHECKOUT, CHECKOUT / "pgmem"]
    assert any(list(folder.glob(name.rstrip("/") + suffix)) for folder in folders
               for suffix in ("", ".py"))  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_a_named_class_exists(name):
    assert re.search(rf"\bclass (?:Async)?{name}\b", SOURCES)


def test_every_table_has_its_line():
    section = PAGE.partition("## Tables")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {table.name for table in tables().metadata.tables.values()}
