-- Read the open writers, and how far positions have been drawn. A writer takes its lock on the
-- table before it draws a position, and keeps it until it has committed or rolled back. The head
-- is read before the locks: the CTE is materialized, and the locks are scanned after it. So a
-- position up to the head whose writer is not in the list is stable. A standby does not see the
-- primary's locks. There the list always holds 'standby'.
-- Any role can take the lock, because PREPARE of an INSERT takes it without a privilege. So only
-- sessions that may insert count. The sessions are read after the locks, and not from a snapshot
-- that the transaction made earlier: a pid may have become another session's.
WITH head AS MATERIALIZED (
    SELECT {include event_head} AS position, pg_stat_clear_snapshot() IS NULL AS cleared
)
SELECT head.position,
       ARRAY(
           SELECT DISTINCT held.virtualtransaction
           FROM pg_catalog.pg_locks AS held
           LEFT JOIN LATERAL pg_stat_get_activity(coalesce(held.pid, 0)) AS session ON true
           WHERE head.position IS NOT NULL AND head.cleared IS NOT NULL
             AND held.locktype = 'relation' AND held.relation = {events}::regclass::oid
             AND held.database = (
                 SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
             )
             AND held.mode = 'RowExclusiveLock' AND held.granted
             AND held.pid IS DISTINCT FROM pg_backend_pid()
             AND CASE WHEN session.usesysid IS NULL THEN true ELSE {include event_may_insert} END
       ) || CASE WHEN pg_is_in_recovery() THEN ARRAY['standby'] ELSE '{{}}'::text[] END
FROM head
