-- Piece: seconds until an event becomes available by itself, by the end of a lease or delay.
SELECT extract(epoch FROM min(at) - clock_timestamp())::float8 FROM (
    SELECT min(expires_at) AS at FROM {schema}.batches
    WHERE group_name = %(group)s AND positions <> '{{}}'
    UNION ALL
    SELECT min(available_at) FROM {schema}.delayed
    WHERE group_name = %(group)s AND available_at > clock_timestamp()
) AS moments
