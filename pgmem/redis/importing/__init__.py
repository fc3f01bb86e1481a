"""Coming from Redis: streams, hashes, sets and strings, brought into a memory.

Behind `pgmem import-redis`. It uses what every user of pgmem can use, and redis-py (the extra
`redis`)::

    source ──► keys, walk ──► convert ──► streams, passes ──► Imports
    (Redis)    (what there is) (sans-I/O)  (steps, resumable)  (one statement a step)
                                  │
                                  └──► refused: a line in a file for each thing left out

    run      all of it once            follow    while the old writers write
    cutover  the end of that           reverse   the way back
    verify   both sides compared       trial     all of it, and nothing is written
"""

from pgmem.redis.importing.positions import position_of

__all__ = ["position_of"]
