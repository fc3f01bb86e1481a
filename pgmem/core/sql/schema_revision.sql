-- Which revision of the schema the database has; and the session's number, which a pooler between
-- hides from the client.
SELECT version_num, current_setting('server_version_num')::int, pg_backend_pid()
FROM {schema}.pgmem_version
