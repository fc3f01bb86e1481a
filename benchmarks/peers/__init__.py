"""Run the peers: other Python libraries that keep events, state or jobs in PostgreSQL.

They run in an environment of their own, because their requirements must not change the versions
that pgmem is measured with, and in processes of their own, as pgmem's arms do.

==================  ================================================================
`requirements.txt`  the peers and all of their dependencies, pinned
`environment`       create the environment, once
`process`           start a process in it, and send it orders
`worker/`           the program that runs there: nothing here may import it
==================  ================================================================
"""
