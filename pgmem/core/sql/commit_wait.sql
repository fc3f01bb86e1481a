-- Wait until everything that was committed before is as safe as a commit is here (on disk, and on
-- the standbys that commits wait for): the log is written in order, so it takes one record at its
-- end. A transaction that writes nothing would not wait.
SELECT pg_catalog.pg_logical_emit_message(true, 'pgmem', '')
