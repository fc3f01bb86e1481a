-- Piece: the first row of a page, in the columns of an event; its position is 0. It holds the
-- highest position that was drawn (version), the timeline of the log (type), the server's WAL
-- position (agent_id), the trimmed position (state_version), and the server's time. The WAL
-- position comes after the commits that this snapshot shows. Up to the trimmed position retention
-- has removed selected events above `after`. A trim that was recorded up to `since` is known to
-- the reader and left out.
SELECT 0::bigint, NULL::text,
       {include event_head},
       CASE WHEN NOT pg_is_in_recovery()
       THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
       NULL::text,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       NULL::text, clock_timestamp(), NULL::text,
       (SELECT max(position) FROM {schema}.trimmed
        WHERE position > %(after)s AND trimmed_at > %(since)s {trimmed}),
       NULL::boolean, NULL::text, NULL::timestamptz
