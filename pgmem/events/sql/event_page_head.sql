-- Piece: the row in front of a page of events, in their columns; its position is 0. It tells how
-- far positions have been drawn (version), the timeline of the log (type), up to where retention
-- has removed events of the selection behind `after` (state_version), and the server's time.
-- A trim that was recorded up to `since` is known to the reader, and not told.
SELECT 0::bigint, NULL::text,
       {include event_head},
       CASE WHEN NOT pg_is_in_recovery()
       THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
       NULL::text, NULL::text, NULL::text, clock_timestamp(), NULL::text,
       (SELECT max(position) FROM {schema}.trimmed
        WHERE position > %(after)s AND trimmed_at > %(since)s {trimmed}),
       NULL::boolean, NULL::text, NULL::timestamptz
