-- Piece: which history the log has now: the server, and its timeline, which changes when a replica
-- is promoted. Without a timeline in recovery. pg_control_checkpoint() would tell it too late.
(SELECT system_identifier,
        CASE WHEN NOT pg_is_in_recovery()
        THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline
 FROM pg_catalog.pg_control_system())
