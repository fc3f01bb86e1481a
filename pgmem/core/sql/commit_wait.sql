-- Wait until all earlier commits are as durable as a commit is here (on disk, and on synchronous
-- standbys). WAL is written in order, so one record at its end is enough. A transaction that writes
-- nothing would not wait.
SELECT pg_catalog.pg_logical_emit_message(true, 'pgmem', '')
