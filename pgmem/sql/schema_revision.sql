-- Which revision of the schema the database has.
SELECT version_num, current_setting('server_version_num')::int FROM {schema}.pgmem_version
