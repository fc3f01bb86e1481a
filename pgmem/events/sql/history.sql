-- Piece: the history that positions belong to now: the cluster, and its timeline, which changes
-- with every promotion and every restore to a point in time. On a standby it is NULL: it has none of
-- its own. Not from pg_control_checkpoint(): that one lags behind a promotion.
SELECT system_identifier,
       CASE WHEN NOT pg_is_in_recovery() THEN
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
       END AS timeline
FROM pg_catalog.pg_control_system()
