"""Events as rows and pages, made without a database."""

from __future__ import annotations

from datetime import UTC, datetime

from pgmem.events.page import Page, PageHead

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def row(position, stream="s", type="t", payload="null", agent_id=None, key=None):
    """Make an event as a row of the statements."""
    return (
        position, stream, None, type, payload, agent_id, None, MOMENT, key, None, None, None, None
    )  # fmt: skip


def page(head, *positions):
    """Make a page with the events of these positions, read at a head."""
    return Page(PageHead(head, 1, None, MOMENT, None), [row(position) for position in positions])


def positions(rows):
    return [found[0] for found in rows]
