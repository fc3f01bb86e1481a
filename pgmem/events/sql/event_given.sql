-- Read when some events were recorded, to check that the log holds what readers were given. The
-- first row (position 0) tells up to where retention has removed some of them.
SELECT 0::bigint, NULL::timestamptz, coalesce(max(position), 0)
FROM {schema}.trimmed WHERE position >= %(low)s
UNION ALL
(SELECT event.position, event.recorded_at, NULL
 FROM unnest(%(positions)b::bigint[]) AS given (position)
 JOIN {schema}.events AS event ON event.position = given.position
 ORDER BY 1)
