"""The queries in the docs run on a migrated database that has something in it."""

import re
from pathlib import Path

import psycopg
import pytest

from pgmem import Event

_QUERY = re.compile(r"^```sql\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
DOCS = Path(__file__).parents[3] / "docs"
QUERIES = [
    query
    for page in sorted(DOCS.rglob("*.md"))
    for query in _QUERY.findall(page.read_text(encoding="utf-8"))
]


def test_there_are_queries():
    assert len(QUERIES) > 5


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split()[:6]))
def test_query(query, memory, database_url):
    memory.events.append("s", Event(type="t"))
    memory.state.put("k", 1)
    memory.dedupe.claim("w", lease=0.001)
    memory.state.snapshots.take()
    with psycopg.connect(database_url) as connection:
        connection.execute(query)
