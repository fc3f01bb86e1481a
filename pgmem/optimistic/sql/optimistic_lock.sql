-- Lock names until the transaction ends: of entries that may be absent, which have no row to lock,
-- and of streams. In one order, so that two transactions cannot deadlock. A statement of its own,
-- because the next one needs a snapshot that is taken after the wait.
SELECT pg_catalog.pg_advisory_xact_lock(lock)
FROM (
    SELECT DISTINCT pg_catalog.hashtextextended(name, ({table state}::regclass)::oid::bigint) AS lock
    FROM unnest(%(names)s::text[]) AS name
    ORDER BY lock
) AS locks
