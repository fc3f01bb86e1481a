"""Import streams, hashes, sets and strings from a Redis into a memory.

`pgmem import-redis` runs this. It uses public names of pgmem, and redis-py (the extra `redis`)::

    source ──► keys, walk ──► convert ──► streams, passes ──► Imports
    (Redis)    (what exists)  (no I/O)    (steps, resumable)  (one statement a step)
                                  │
                                  └──► refused: a line in a file for each item left out

    run      import everything once        follow    continue while the old writers write
    cutover  end of following              reverse   go back to Redis
    verify   compare both sides            dry_run   stand-ins that write nothing
"""
