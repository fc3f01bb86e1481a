"""Compare pgmem with the bare drivers and with Redis, on one machine, in one run.

Run it with ``python -m benchmarks`` (extra `bench`). It measures pgmem through its public names;
nothing in pgmem imports it. It is no load test of a server of your own, and it uses no tuning that
users do not have.

- `harness`: arms, scenarios, interleaved rounds, and all of the statistics.
- `audit`: counts what an arm did wrong, such as lost, duplicated or reordered events.
- `arms`: the two on Redis, which are the published approach and Redis done right.
- `servers`: the private Postgres and Redis, and fresh databases in them.
- `crew`: worker processes that are started once and then get orders.
- `machine`: the processor, versions, settings and the fsync of the disk.
- `scenarios`: one module for each group of scenarios, and their list.
- `peers`: other libraries, in an environment and processes of their own.
- `meter`: processor time of both sides, and bytes.
- `report`: the results on a terminal, as JSON, as an HTML page and as Markdown with plots.
"""
