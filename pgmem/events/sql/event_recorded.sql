-- Read when events were recorded, to check that the log holds the events that were handed out.
-- The first row (position 0) tells up to where retention has removed some of them.
SELECT 0::bigint, NULL::timestamptz, coalesce(max(position), 0)
FROM {schema}.trimmed WHERE position >= %(low)s
UNION ALL
(SELECT position, recorded_at, NULL
 FROM {schema}.events
 WHERE position BETWEEN %(low)s AND %(high)s
 ORDER BY position)
