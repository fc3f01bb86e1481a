-- The revision of the schema, the server's version, and the session's process id, which differs
-- from the client's if a pooler is in between.
SELECT version_num, current_setting('server_version_num')::int, pg_backend_pid()
FROM {schema}.pgmem_version
