"""The `pgmem` command: one module for each group of subcommands, put together in `app`.

Commands use pgmem's public names, print for people (rich) or as JSON (`--json`), and hold no
logic of their own. Nothing else in pgmem imports this package.
"""
