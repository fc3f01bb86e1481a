"""The peers: other Python libraries that keep events, state or jobs in PostgreSQL.

They run in an environment of their own, because what they need must not decide what pgmem is
measured with, and in processes of their own, as pgmem's arms do.

==================  ================================================================
`requirements.txt`  which peers, and all that they bring along, pinned
`environment`       makes the environment, once
`process`           starts a process in it, and tells it what to run when
`worker/`           what runs there: nothing here may import it
==================  ================================================================
"""
