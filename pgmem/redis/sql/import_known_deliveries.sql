-- What is handed out in a group and not done, held or parked, or reserved, in the order of the log: page by page.
SELECT event.position, coalesce(event.attempts, 1), false
FROM {schema}.batches AS slots
CROSS JOIN LATERAL unnest(slots.positions, slots.attempts) AS event (position, attempts)
WHERE slots.group_name = %(group)s AND event.position > %(after)s
UNION ALL
SELECT event.position, 0, true
FROM {schema}.batches AS slots CROSS JOIN LATERAL unnest(slots.prefetched) AS event (position)
WHERE slots.group_name = %(group)s AND event.position > %(after)s
UNION ALL
SELECT position, attempts, true
FROM {schema}.delayed WHERE group_name = %(group)s AND position > %(after)s
ORDER BY 1
LIMIT %(limit)s
