-- The sessions with a lock on the events that keeps a restore out.
SELECT DISTINCT held.pid, session.usename::text
FROM pg_catalog.pg_locks AS held
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = held.pid
WHERE held.locktype = 'relation' AND held.relation = {events}::regclass::oid AND held.granted
  AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND held.mode NOT IN ('AccessShareLock', 'RowShareLock')
  AND held.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY 1
