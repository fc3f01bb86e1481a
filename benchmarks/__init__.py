"""The comparison: pgmem beside the bare drivers and beside Redis, on one machine, in one run.

Run it with ``python -m benchmarks`` (extra `bench`). It measures pgmem from outside, through its
public names; nothing in pgmem imports it. What it is not: a load test of a server of yours, or a
place for tuning that users would not have.

==============  ====================================================================
`harness`       arms, scenarios, interleaved rounds, and all of the statistics
`audit`         what an arm did wrong: lost, duplicated, reordered
`arms`          the two on Redis: the published approach, and Redis done right
`servers`       the private Postgres and Redis, and fresh databases in them
`crew`          worker processes that are started once and told what to run when
`machine`       what it runs on: processor, versions, settings, fsync of the disk
`scenarios`     one module for each group of scenarios, and their list
`peers`         other libraries, in an environment and processes of their own
`report`        the results as tables and as JSON
==============  ====================================================================
"""
