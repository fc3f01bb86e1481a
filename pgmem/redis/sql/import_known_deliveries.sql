-- The events of a group that were delivered and not acknowledged, in the order of the log.
SELECT event.position, coalesce(event.attempts, 1), false
FROM {schema}.batches AS batch
CROSS JOIN LATERAL unnest(batch.positions, batch.attempts) AS event (position, attempts)
WHERE batch.group_name = %(group)s AND event.position > %(after)s
UNION ALL
SELECT event.position, 0, true
FROM {schema}.batches AS batch CROSS JOIN LATERAL unnest(batch.prefetched) AS event (position)
WHERE batch.group_name = %(group)s AND event.position > %(after)s
UNION ALL
SELECT position, attempts, true
FROM {schema}.delayed WHERE group_name = %(group)s AND position > %(after)s
ORDER BY 1
LIMIT %(limit)s
