-- Piece: the history that positions belong to now: the cluster, and its timeline, which changes
-- with each promotion and each restore to a point in time. A standby has no timeline of its own
-- (NULL). pg_control_checkpoint() lags behind a promotion, so the timeline is read from the WAL
-- position.
SELECT system_identifier,
       CASE WHEN NOT pg_is_in_recovery() THEN
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
       END AS timeline
FROM pg_catalog.pg_control_system()
