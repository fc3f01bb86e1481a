-- The open transactions that have appended events, oldest first. Those whose age is hidden from the
-- role come last. A prepared transaction has no session and is found by the transaction id that it
-- has locked.
SELECT held.pid, coalesce(session.application_name, prepared.gid, ''),
       coalesce(session.usename, prepared.owner, '')::text, session.state,
       coalesce(session.xact_start, prepared.prepared)
FROM pg_catalog.pg_locks AS held
LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = held.pid
LEFT JOIN pg_catalog.pg_locks AS own
    ON held.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
   AND own.virtualtransaction = held.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
WHERE held.locktype = 'relation' AND held.relation = {events}::regclass::oid
  AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND held.mode = 'RowExclusiveLock' AND held.granted
  AND held.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY 5 NULLS LAST LIMIT %(most)s
