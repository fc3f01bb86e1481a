-- The revision of the schema, the server's version and the session's pid, which differs from the
-- client's idea of it behind a pooler. Versions of pgmem before the first release had no table
-- `subscriptions`, and revisions of the same names.
SELECT version_num, current_setting('server_version_num')::int, pg_backend_pid(),
       pg_catalog.to_regclass({table subscriptions}) IS NULL
FROM {schema}.pgmem_version
