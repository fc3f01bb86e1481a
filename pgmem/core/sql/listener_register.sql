-- For a listener's session: the advisory lock by which others see that this process listens, and
-- the id for `schema_listen`. Both end with the session.
SELECT pg_catalog.pg_advisory_lock(%(listener_id)s),
       pg_catalog.set_config('pgmem.listener_id', %(listener_id)s::text, false)
