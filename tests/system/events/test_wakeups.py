"""Writers that do not notify: of those that commit at once most do not, and all events arrive.

One writer has the notification lock until it has committed. The others commit without notifying.
The reader that the first one wakes must see that they are open, and poll again.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.options import size
from tests.support.processes import Worker, ready, seed

WRITERS = 6
POLL = 5.0
"""Seconds: a reader that waits for the safety poll is noticed."""

# A writer that holds the notification lock commits. If it rolled back, the silent ones would wait
# for the safety poll.
# pgmem's own append, with a commit that takes a while, as one with fsync does.
WRITER = """
import json, random, sys, time
import psycopg
from pgmem.core import statements as sql
url, seed = sys.argv[1], sys.argv[2]
rng = random.Random(seed)
with psycopg.connect(url) as connection:
    (channel,) = connection.execute("SELECT channel FROM pgmem.meta").fetchone()
    connection.commit()
    append = sql.statement("event_append", sql.Dialect("pgmem", channel, "if_free"))
    params = {"stream": "s", "type": "t", "payload": "0", "agent_id": None, "metadata": None,
              "channel": channel}
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    while sys.stdin.readline():
        now = time.monotonic()
        time.sleep(0.002 - now % 0.002)  # all at the same moment
        position, _, sent = connection.execute(append, params).fetchone()
        if sent == "busy" and rng.random() < 0.15:
            connection.rollback()
            position = None
        else:
            if rng.random() < 0.7:
                time.sleep(rng.random() * rng.choice((0.0005, 0.002, 0.01)))
            connection.commit()
        print(json.dumps([position, sent, time.monotonic()]), flush=True)
"""


@pytest.mark.parametrize(
    "form", ["async", pytest.param("sync", marks=pytest.mark.sized)], indirect=True
)
async def test_delivery_does_not_wait_for_the_safety_poll(form):
    late_after = size(200, 1000, form.name) / 1000
    rounds, base = size(1000, 100, form.name), seed()
    writers = [Worker(WRITER, form.url, base + n) for n in range(WRITERS)]
    await asyncio.to_thread(ready, writers)
    delays, silent = [], 0
    async with (
        form.memory(safety_poll=POLL) as memory,
        memory.events.subscribe(after="now") as events,
    ):
        for n in range(1, rounds + 1):
            for writer in writers:
                writer.say()
            got = []
            while True:
                got += [event.position for event in await events.receive(timeout=0.01)]
                delivered = time.monotonic()
                answers = [writer.lines[n] for writer in writers if len(writer.lines) > n]
                wanted = sorted(position for position, *_ in answers if position)
                if len(answers) == WRITERS and len(got) >= len(wanted):
                    break
                assert not answers or delivered < answers[0][2] + 4 * POLL
            assert got == wanted
            delays.append(delivered - max(at for *_, at in answers))
            silent += sum(sent == "busy" for _, sent, _ in answers)
    for writer in writers:
        writer.close_input()
        writer.finish()
    late = [delay for delay in delays if delay > late_after]
    delays.sort()
    print(
        f"{rounds} rounds, {silent} of {rounds * WRITERS} writers silent, {len(late)} rounds "
        f"later than {late_after} s; median {delays[rounds // 2] * 1000:.1f} ms, "
        f"longest {delays[-1] * 1000:.1f} ms"
    )
    assert silent > rounds
    assert len(late) <= rounds / 1000
