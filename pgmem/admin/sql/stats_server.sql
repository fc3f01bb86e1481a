-- What server this is, and how safely it keeps what is written.
SELECT current_setting('server_version'), pg_is_in_recovery(), version_num,
       current_setting('synchronous_commit'), current_setting('fsync'), clock_timestamp()
FROM {schema}.pgmem_version
