-- For the session of a listener: the lock by which others know that this process lives and listens,
-- and the number for `schema_listen`. Both end with the session.
SELECT pg_catalog.pg_advisory_lock(%(mark)s),
       pg_catalog.set_config('pgmem.mark', %(mark)s::text, false)
