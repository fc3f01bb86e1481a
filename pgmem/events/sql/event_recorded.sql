-- When events were recorded: to see whether the log still holds the events that were given out.
-- In front (position 0) stands up to where retention has removed some of them.
SELECT 0::bigint, NULL::timestamptz, coalesce(max(position), 0)
FROM {schema}.trimmed WHERE position >= %(low)s
UNION ALL
(SELECT position, recorded_at, NULL
 FROM {schema}.events
 WHERE position BETWEEN %(low)s AND %(high)s
 ORDER BY position)
