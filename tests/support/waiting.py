"""Wait for a condition, in a task or in a thread."""

from __future__ import annotations

import asyncio
import time


async def until(condition, seconds: float = 20.0):
    """Wait until a condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition was not true within {seconds} s"
        await asyncio.sleep(0.01)
    return found


def wait_until(condition, timeout: float = 30, what: str = "the condition"):
    """Wait in a thread until a condition is true; return its value."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.005)
    return found
