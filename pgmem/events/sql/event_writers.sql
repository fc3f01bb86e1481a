-- Read the open writers, and how far positions have been drawn. A writer takes its lock on the
-- table before it draws a position, and keeps it until it has committed or rolled back. The head
-- is read before the locks: the CTE is materialized, and the locks are scanned after it. So a
-- position up to the head whose writer is not in the list is stable. A standby does not see the
-- primary's locks. There the list always holds 'standby'.
WITH head AS MATERIALIZED (
    SELECT {include event_head} AS position
)
SELECT head.position,
       ARRAY(
           SELECT DISTINCT virtualtransaction FROM pg_catalog.pg_locks
           WHERE head.position IS NOT NULL
             AND locktype = 'relation' AND relation = {events}::regclass::oid
             AND database = (
                 SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
             )
             AND mode = 'RowExclusiveLock' AND granted
             AND pid IS DISTINCT FROM pg_backend_pid()
       ) || CASE WHEN pg_is_in_recovery() THEN ARRAY['standby'] ELSE '{{}}'::text[] END
FROM head
