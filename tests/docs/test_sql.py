"""The queries in operations.md run on a migrated database that has something in it."""

import re
from pathlib import Path

import psycopg
import pytest

from pgmem import Event

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^```sql\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_there_are_queries():
    assert len(QUERIES) == PAGE.count("```sql") > 5


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split()[:6]))
def test_query(query, memory, database_url):
    memory.events.append("s", Event(type="t"))
    memory.state.put("k", 1)
    memory.dedupe.claim("w", lease=0.001)
    memory.snapshots.take()
    with psycopg.connect(database_url) as connection:
        connection.execute(query)
