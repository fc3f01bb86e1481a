"""A payment system of three agents that share a memory, one of which is killed half way.

::

    gateway ─▶ incoming ─▶ validator ─▶ validated ─▶ processor ─▶ outcomes ─▶ notifier ─▶ notified
               (stream)                 (stream)     4 workers    (stream)                (stream)

Each agent is a process of its own, connected to the others by pgmem only.

- `scenario` decides what is sent and what goes wrong.
- `gateway` sends it.
- `agents` handle it. `isolated` holds the same agents without a shared memory.
- `supervisor` starts, kills and restarts the agents.
- `summary` computes the result from the database.

The demo uses public names of pgmem only, and changes nothing in a database but its two schemas.
"""
