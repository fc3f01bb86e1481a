"""The demo: three agents process payments through a shared memory, and one is killed half way.

::

    gateway ─▶ incoming ─▶ validator ─▶ validated ─▶ processor ─▶ outcomes ─▶ notifier ─▶ notified
               (stream)                 (stream)     4 workers    (stream)                (stream)

Each agent is a process of its own, with no link to the others but pgmem. `scenario` decides what
is sent and what goes wrong, `gateway` sends it, `agents` (or `isolated`, the same agents without
a shared memory) work it off, `supervisor` starts, kills and restarts them, and `summary` asks the
database what became of the money.

The demo is a user of pgmem like any other: it may use public names only, and it may touch nothing
in a database but its own two schemas.
"""
